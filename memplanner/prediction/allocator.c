/* PyTorch's CUDA caching allocator, as allocator.py has it, for the replay of a step's tens of thousands of events.

   allocator.py says what is re-enacted and where it is from; a property test holds the two equal. */

#include <stddef.h>
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

/* A free block's rank is one number: its size, then its address. */
#define ADDRESS_BITS 33
static const int64_t MOST = (int64_t)1 << (64 - ADDRESS_BITS); /* 1 TiB */
static const int64_t CEILING = (int64_t)1 << ADDRESS_BITS;

enum { DEVICE_FULL = -1, NO_MEMORY = -2, TOO_LARGE = -3, IMPOSSIBLE = -4 };

/* A stretch of a segment; its neighbours in the segment by index, -1 where there is none. */
typedef struct {
    int64_t address, size;
    int32_t previous, next;
    int8_t free, small;
} Block;

typedef struct {
    uint64_t rank;
    int32_t block;
} Offer;

/* What is free, by rank. There is room before the first and after the last: whatever comes or goes, the fewer move. */
typedef struct {
    Offer *store, *offers;
    int32_t count, room;
    int32_t end; /* Of expandable segments: the last block of the pool's range, -1 where there is none. */
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
    a->blocks[index] = (Block){address, size, -1, -1, 1, (int8_t)small};
    return index;
}

static void drop_block(Allocator *a, int32_t index)
{
    a->blocks[index].next = a->unused;
    a->unused = index;
}

static inline uint64_t rank(int64_t size, int64_t address)
{
    return (uint64_t)size << ADDRESS_BITS | (uint64_t)address;
}

static inline uint64_t rank_of(const Block *b)
{
    return rank(b->size, b->address);
}

/* The first offer from `low` on and before `high` whose rank is not below. */
static inline int32_t place(const Pool *pool, int32_t low, int32_t high, uint64_t rank)
{
    const Offer *first = pool->offers + low;
    int32_t length = high - low;
    while (length > 0) {
        int32_t half = length / 2;
        int below = first[half].rank < rank;
        first = below ? first + half + 1 : first;
        length = below ? length - half - 1 : half;
    }
    return (int32_t)(first - pool->offers);
}

static int32_t place_of(const Allocator *a, int32_t index)
{
    const Block *b = &a->blocks[index];
    const Pool *pool = &a->pools[b->small];
    return place(pool, 0, pool->count, rank_of(b));
}

static void remove_at(Pool *pool, int32_t at)
{
    int32_t after = --pool->count - at;
    if (at < after) {
        memmove(&pool->offers[1], &pool->offers[0], (size_t)at * sizeof(Offer));
        pool->offers++;
    } else {
        memmove(&pool->offers[at], &pool->offers[at + 1], (size_t)after * sizeof(Offer));
    }
}

/* Room on both sides for at least one more; 0 where there is no memory for it. */
static int roomy(Pool *pool)
{
    ptrdiff_t before = pool->offers - pool->store;
    if (before > 0 && before + pool->count < pool->room)
        return 1;
    int32_t room = pool->count > pool->room / 2 || !pool->room ? 2 * pool->room + 256 : pool->room;
    Offer *store = malloc((size_t)room * sizeof(Offer));
    if (store == NULL)
        return 0;
    Offer *offers = store + (room - pool->count) / 2;
    if (pool->count)
        memcpy(offers, pool->offers, (size_t)pool->count * sizeof(Offer));
    free(pool->store);
    pool->store = store;
    pool->offers = offers;
    pool->room = room;
    return 1;
}

static void withdraw(Allocator *a, int32_t index)
{
    remove_at(&a->pools[a->blocks[index].small], place_of(a, index));
}

static void offer(Allocator *a, int32_t index)
{
    const Block *b = &a->blocks[index];
    Pool *pool = &a->pools[b->small];
    if (!roomy(pool)) {
        a->error = NO_MEMORY;
        return;
    }
    int32_t at = place(pool, 0, pool->count, rank_of(b)), after = pool->count++ - at;
    if (at < after) {
        pool->offers--;
        memmove(&pool->offers[0], &pool->offers[1], (size_t)at * sizeof(Offer));
    } else {
        memmove(&pool->offers[at + 1], &pool->offers[at], (size_t)after * sizeof(Offer));
    }
    pool->offers[at] = (Offer){rank_of(b), index};
}

/* Offer a block instead of the one at a place: only what lies between the two places moves. */
static void offer_instead(Allocator *a, int32_t at, int32_t index)
{
    const Block *b = &a->blocks[index];
    Pool *pool = &a->pools[b->small];
    uint64_t rank = rank_of(b);
    int32_t to;
    if (rank > pool->offers[at].rank) {
        to = place(pool, at + 1, pool->count, rank) - 1;
        memmove(&pool->offers[at], &pool->offers[at + 1], (size_t)(to - at) * sizeof(Offer));
    } else {
        to = place(pool, 0, at, rank);
        memmove(&pool->offers[to + 1], &pool->offers[to], (size_t)(at - to) * sizeof(Offer));
    }
    pool->offers[to] = (Offer){rank, index};
}

/* The place in its pool of the smallest free block that serves the request; -1 where there is none. */
static int32_t cached(const Allocator *a, int64_t size, int small)
{
    const Pool *pool = &a->pools[small];
    int32_t at = place(pool, 0, pool->count, rank(size, 0));
    if (at == pool->count)
        return -1;
    if (a->max_split_size >= 0 && !small) {
        int64_t found = (int64_t)(pool->offers[at].rank >> ADDRESS_BITS);
        if (size < a->max_split_size ? found >= a->max_split_size : found >= size + LARGE_SEGMENT)
            return -1;
    }
    return at;
}

static void return_unused(Allocator *a)
{
    for (int small = 0; small < 2; small++) {
        Pool *pool = &a->pools[small];
        int32_t kept = 0;
        for (int32_t i = 0; i < pool->count; i++) {
            int32_t index = pool->offers[i].block;
            if (a->blocks[index].previous < 0 && a->blocks[index].next < 0) {
                a->reserved -= a->blocks[index].size;
                drop_block(a, index);
            } else {
                pool->offers[kept++] = pool->offers[i];
            }
        }
        pool->count = kept;
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
    int64_t more = (size - a->blocks[index].size + page - 1) / page * page;
    a->blocks[index].size += more;
    take(a, more);
    return a->error ? -1 : index;
}

static int32_t allocate(Allocator *a, int64_t size)
{
    if (size >= MOST) {
        a->error = TOO_LARGE;
        return -1;
    }
    int small = size <= SMALL_LIMIT;
    int32_t at = cached(a, size, small), index;
    if (at >= 0)
        index = a->pools[small].offers[at].block;
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
        if (at >= 0)
            offer_instead(a, at, tail);
        else
            offer(a, tail);
    } else if (at >= 0) {
        remove_at(&a->pools[small], at);
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
    int32_t previous = a->blocks[index].previous, next = a->blocks[index].next, at = -1;
    a->blocks[index].free = 1;
    if (next >= 0 && a->blocks[next].free) {
        at = place_of(a, next);
        merge(a, index, next);
    }
    if (previous >= 0 && a->blocks[previous].free) {
        if (at >= 0)
            remove_at(&a->pools[a->blocks[index].small], at);
        at = place_of(a, previous);
        merge(a, previous, index);
        index = previous;
    }
    if (at >= 0)
        offer_instead(a, at, index);
    else
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
    a.pools[0].end = a.pools[1].end = -1;
    int32_t repetition = 0;
    struct { int32_t block, born; } *held = calloc((size_t)(blocks ? blocks : 1), sizeof *held);
    if (held == NULL)
        a.error = NO_MEMORY;
    for (int64_t s = 0; s < count && !a.error; s++) {
        for (int64_t times = 0; times < stretches[s].times && !a.error; times++) {
            int64_t before = a.taken, live = 0;
            int32_t step = (int32_t)(times * stretches[s].step), foreign = 0;
            repetition++;
            for (int64_t e = 0; e < stretches[s].count && !a.error; e++) {
                int32_t event = stretches[s].events[e];
                int32_t i = (event >= 0 ? event : ~event) + step;
                int64_t size = i < logged ? sizes[i >> bits] : kept[i - logged];
                if (!size)
                    continue;
                size = (size + BLOCK - 1) / BLOCK;
                if ((event >= 0) != !held[i].born) {
                    a.error = IMPOSSIBLE;
                } else if (event >= 0) {
                    held[i].block = allocate(&a, size);
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
    free(held);
    free(a.blocks);
    free(a.pools[0].store);
    free(a.pools[1].store);
    return a.error ? a.error : a.peak * BLOCK;
}
