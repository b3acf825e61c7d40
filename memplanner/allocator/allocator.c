/* PyTorch's CUDA caching allocator, as allocator.py has it, for the replay of a step's tens of thousands of events.

   allocator.py says what is re-enacted and where it is from; a property test holds the two equal. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Sizes and addresses are counted in blocks of 512 bytes, as the allocator hands them out. */
#define BLOCK 512
#define MIB ((int64_t)1 << 11)

static const int64_t SMALL_LIMIT = MIB;
static const int64_t SMALL_SEGMENT = 2 * MIB;
static const int64_t MIN_LARGE = 10 * MIB;
static const int64_t LARGE_SEGMENT = 20 * MIB;
static const int64_t ROUND_LARGE = 2 * MIB;
static const int64_t TOP_DOWN = 64 * MIB;

static const int64_t MOST = (int64_t)1 << 31; /* 1 TiB */
static const int64_t CEILING = (int64_t)1 << 33;

enum { DEVICE_FULL = -1, NO_MEMORY = -2, TOO_LARGE = -3, IMPOSSIBLE = -4 };

/* A stretch of a segment; its neighbours in the segment, and while it is free those in its class, by index, -1 where
   there is none. */
typedef struct {
    int64_t address, size;
    int32_t previous, next;
    int32_t before, after;
    int8_t free, small;
} Block;

/* What is free, in classes of sizes that differ by less than a 32nd; within a class by size, then by address. */
#define CLASSES 896
typedef struct {
    int32_t first[CLASSES], last[CLASSES];
    uint64_t filled[CLASSES / 64]; /* A bit for every class that is not empty. */
    int32_t end;                   /* Of expandable segments: the last block of the pool's range, or -1. */
} Pool;

typedef struct {
    int64_t limit, max_split_size; /* Below zero: none. */
    int32_t expandable;
    int64_t reserved, peak, address, ceiling, taken;
    Pool pools[2];
    Block *blocks;
    int32_t count, room;
    int32_t unused; /* A chain of blocks that were merged into others, by `next`. */
    int32_t error;
} Allocator;

/* Mirrored in compiled.py, described in pool.py. */
typedef struct {
    const int32_t *events;
    int64_t count, times, step;
} Stretch;

static int32_t new_block(Allocator *a, int64_t address, int64_t size, int small)
{
    int32_t index = a->unused;
    if (index >= 0) {
        a->unused = a->blocks[index].next;
    } else {
        if (a->count == a->room) {
            int32_t room = a->room ? 2 * a->room : 1024;
            Block *blocks = realloc(a->blocks, (size_t)room * sizeof(Block));
            if (blocks == NULL) {
                a->error = NO_MEMORY;
                return -1;
            }
            a->blocks = blocks;
            a->room = room;
        }
        index = a->count++;
    }
    a->blocks[index] = (Block){address, size, -1, -1, -1, -1, 1, (int8_t)small};
    return index;
}

static void drop_block(Allocator *a, int32_t index)
{
    a->blocks[index].next = a->unused;
    a->unused = index;
}

static inline int top_bit(uint64_t word)
{
    return 63 - __builtin_clzll(word);
}

static inline int class_of(int64_t size)
{
    int shift = size < 64 ? 0 : top_bit((uint64_t)size) - 5;
    return (shift << 5) + (int)(size >> shift);
}

static inline int comes_before(const Block *one, const Block *other)
{
    return one->size != other->size ? one->size < other->size : one->address < other->address;
}

static void withdraw(Allocator *a, int32_t index)
{
    Block *b = &a->blocks[index];
    Pool *pool = &a->pools[b->small];
    int class = class_of(b->size);
    if (b->before >= 0)
        a->blocks[b->before].after = b->after;
    else
        pool->first[class] = b->after;
    if (b->after >= 0)
        a->blocks[b->after].before = b->before;
    else
        pool->last[class] = b->before;
    if (b->before < 0 && b->after < 0)
        pool->filled[class / 64] &= ~((uint64_t)1 << class % 64);
}

static void offer(Allocator *a, int32_t index)
{
    Block *b = &a->blocks[index];
    Pool *pool = &a->pools[b->small];
    int class = class_of(b->size);
    int32_t before = pool->last[class], after = -1;
    if (before >= 0 && comes_before(b, &a->blocks[before])) {
        before = -1;
        after = pool->first[class];
        while (comes_before(&a->blocks[after], b)) {
            before = after;
            after = a->blocks[after].after;
        }
    }
    b->before = before;
    b->after = after;
    if (before >= 0)
        a->blocks[before].after = index;
    else
        pool->first[class] = index;
    if (after >= 0)
        a->blocks[after].before = index;
    else
        pool->last[class] = index;
    pool->filled[class / 64] |= (uint64_t)1 << class % 64;
}

/* The smallest free block that serves the request, of equals the one at the lowest address; -1 where there is none. */
static int32_t best_fit(const Allocator *a, int64_t size, int small)
{
    const Pool *pool = &a->pools[small];
    int class = class_of(size);
    for (int32_t index = pool->first[class]; index >= 0; index = a->blocks[index].after)
        if (a->blocks[index].size >= size)
            return index;
    int at = ++class / 64;
    uint64_t word = pool->filled[at] >> class % 64 << class % 64;
    while (!word && ++at < CLASSES / 64)
        word = pool->filled[at];
    return word ? pool->first[at * 64 + __builtin_ctzll(word)] : -1;
}

/* The same as far as max_split_size has it used. */
static int32_t cached(const Allocator *a, int64_t size, int small)
{
    int32_t index = best_fit(a, size, small);
    if (index >= 0 && a->max_split_size >= 0 && !small) {
        int64_t found = a->blocks[index].size;
        if (size < a->max_split_size ? found >= a->max_split_size : found >= size + LARGE_SEGMENT)
            return -1;
    }
    return index;
}

static void return_unused(Allocator *a)
{
    for (int small = 0; small < 2; small++) {
        for (int class = 0; class < CLASSES; class++) {
            int32_t after;
            for (int32_t index = a->pools[small].first[class]; index >= 0; index = after) {
                after = a->blocks[index].after;
                if (a->blocks[index].previous < 0 && a->blocks[index].next < 0) {
                    a->reserved -= a->blocks[index].size;
                    withdraw(a, index);
                    drop_block(a, index);
                }
            }
        }
    }
}

/* Count another segment, after returning the unused ones if the device has no room for it. */
static void take(Allocator *a, int64_t length)
{
    a->taken++;
    if (a->reserved + length >= MOST || a->address + length >= CEILING / 2 || a->ceiling - length < CEILING / 2) {
        a->error = TOO_LARGE;
        return;
    }
    if (a->limit >= 0 && a->reserved + length > a->limit) {
        if (!a->expandable)
            return_unused(a);
        if (a->reserved + length > a->limit) {
            a->error = DEVICE_FULL;
            return;
        }
    }
    a->reserved += length;
    if (a->reserved > a->peak)
        a->peak = a->reserved;
}

static int32_t segment(Allocator *a, int64_t size, int small)
{
    int64_t length = small ? SMALL_SEGMENT
                     : size < MIN_LARGE ? LARGE_SEGMENT
                                        : (size + ROUND_LARGE - 1) / ROUND_LARGE * ROUND_LARGE;
    take(a, length);
    if (a->error)
        return -1;
    if (length >= TOP_DOWN) {
        a->ceiling -= length;
        return new_block(a, a->ceiling, length, small);
    }
    a->address += length;
    return new_block(a, a->address - length, length, small);
}

/* The free end of the pool's range, made as long as it must be. */
static int32_t grown(Allocator *a, int64_t size, int small)
{
    int64_t page = small ? SMALL_SEGMENT : LARGE_SEGMENT;
    int32_t end = a->pools[small].end, index = end;
    if (end >= 0 && a->blocks[end].free) {
        withdraw(a, end);
    } else {
        int64_t address = end >= 0 ? a->blocks[end].address + a->blocks[end].size : 0;
        index = new_block(a, address, 0, small);
        if (index < 0)
            return -1;
        a->blocks[index].previous = end;
        if (end >= 0)
            a->blocks[end].next = index;
        a->pools[small].end = index;
    }
    if (a->blocks[index].size < size) {
        int64_t more = (size - a->blocks[index].size + page - 1) / page * page;
        a->blocks[index].size += more;
        take(a, more);
    }
    return a->error ? -1 : index;
}

static int32_t allocate(Allocator *a, int64_t size)
{
    int small = size <= SMALL_LIMIT;
    int32_t index = cached(a, size, small);
    if (index >= 0)
        withdraw(a, index);
    else
        index = a->expandable ? grown(a, size, small) : segment(a, size, small);
    if (index < 0)
        return -1;
    int64_t rest = a->blocks[index].size - size;
    int splits = small || a->expandable
                     ? rest > 0
                     : rest > SMALL_LIMIT && (a->max_split_size < 0 || size < a->max_split_size);
    if (splits) {
        int32_t tail = new_block(a, a->blocks[index].address + size, rest, small);
        if (tail < 0)
            return -1;
        Block *b = &a->blocks[index];
        a->blocks[tail].previous = index;
        a->blocks[tail].next = b->next;
        if (b->next >= 0)
            a->blocks[b->next].previous = tail;
        b->next = tail;
        b->size = size;
        if (a->pools[small].end == index)
            a->pools[small].end = tail;
        offer(a, tail);
    }
    a->blocks[index].free = 0;
    return index;
}

/* Merge the second of two neighbours into the first. */
static void merge(Allocator *a, int32_t first, int32_t second)
{
    Block *one = &a->blocks[first], *two = &a->blocks[second];
    one->size += two->size;
    one->next = two->next;
    if (two->next >= 0)
        a->blocks[two->next].previous = first;
    if (a->pools[one->small].end == second)
        a->pools[one->small].end = first;
    drop_block(a, second);
}

static void release(Allocator *a, int32_t index)
{
    int32_t previous = a->blocks[index].previous, next = a->blocks[index].next;
    a->blocks[index].free = 1;
    if (next >= 0 && a->blocks[next].free) {
        withdraw(a, next);
        merge(a, index, next);
    }
    if (previous >= 0 && a->blocks[previous].free) {
        withdraw(a, previous);
        merge(a, previous, index);
        index = previous;
    }
    offer(a, index);
}

/* The most bytes of segments during the events: i where block i is allocated, ~i where it is freed.

   sizes: bytes of the blocks, 2^bits in a row of each; blocks from `logged` on are in `kept` one by one. What has none
   is left out. limit: bytes that the device gives, max_split_size: in bytes; below zero: none. DEVICE_FULL where the
   limit is not enough, NO_MEMORY where this machine's memory is not, TOO_LARGE where segments come to a TiB, IMPOSSIBLE
   where what is allocated is there already, or what is freed is not. */
int64_t memplanner_peak_reserved(const Stretch *stretches, int64_t count, const int64_t *sizes, int32_t bits,
                                 int32_t logged, const int64_t *kept, int64_t blocks, int32_t expandable,
                                 int64_t max_split_size, int64_t limit)
{
    Allocator a = {.limit = limit < 0 ? -1 : limit / BLOCK,
                   .max_split_size = max_split_size < 0 ? -1 : (max_split_size + BLOCK - 1) / BLOCK,
                   .expandable = expandable,
                   .ceiling = CEILING - 1,
                   .unused = -1};
    for (int small = 0; small < 2; small++) {
        memset(a.pools[small].first, -1, sizeof a.pools[small].first);
        memset(a.pools[small].last, -1, sizeof a.pools[small].last);
        a.pools[small].end = -1;
    }
    int64_t longest = 1;
    for (int64_t s = 0; s < count; s++)
        if (stretches[s].count > longest)
            longest = stretches[s].count;
    struct { int32_t event, size; } *told = malloc((size_t)longest * sizeof *told);
    struct { int32_t block, born; } *held = calloc((size_t)(blocks ? blocks : 1), sizeof *held);
    if (told == NULL || held == NULL)
        a.error = NO_MEMORY;
    int32_t repetition = 0;
    for (int64_t s = 0; s < count && !a.error; s++) {
        int64_t events = 0; /* Those of blocks that have bytes. */
        for (int64_t e = 0; e < stretches[s].count; e++) {
            int32_t event = stretches[s].events[e], i = event >= 0 ? event : ~event;
            int64_t size = ((i < logged ? sizes[i >> bits] : kept[i - logged]) + BLOCK - 1) / BLOCK;
            told[events].event = event;
            told[events].size = (int32_t)size;
            events += size > 0;
            if (size >= MOST)
                a.error = TOO_LARGE;
        }
        for (int64_t times = 0; times < stretches[s].times && !a.error; times++) {
            int64_t before = a.taken, live = 0;
            int32_t step = (int32_t)(times * stretches[s].step), foreign = 0;
            repetition++;
            for (int64_t e = 0; e < events && !a.error; e++) {
                int32_t event = told[e].event, i = (event >= 0 ? event : ~event) + step;
                if ((event >= 0) != !held[i].born) {
                    a.error = IMPOSSIBLE;
                } else if (event >= 0) {
                    held[i].block = allocate(&a, told[e].size);
                    held[i].born = repetition;
                    live++;
                } else {
                    release(&a, held[i].block);
                    if (held[i].born == repetition)
                        live--;
                    else
                        foreign = 1;
                    held[i].born = 0;
                }
            }
            if (!foreign && !live && a.taken == before)
                break; /* What is free is what is not in use, merged: all is as it was, and would be again. */
        }
    }
    free(told);
    free(held);
    free(a.blocks);
    return a.error ? a.error : a.peak * BLOCK;
}
