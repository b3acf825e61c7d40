/* PyTorch's CUDA caching allocator in C: a training step has tens of thousands of allocations and frees, and a sweep
   replays thousands of steps.

   reference.py says what is re-enacted here and where in PyTorch it is found; property tests hold the two equal. The
   comments below say what differs from it: how free blocks are found, and what is not replayed again. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Sizes and addresses are counted in units of 512 bytes, the smallest block that the allocator hands out. */
#define UNIT 512
#define MIB ((int64_t)1 << 11)

static const int64_t SMALL_LIMIT = MIB;
static const int64_t SMALL_SEGMENT = 2 * MIB;
static const int64_t MIN_LARGE = 10 * MIB;
static const int64_t LARGE_SEGMENT = 20 * MIB;
static const int64_t ROUND_LARGE = 2 * MIB;
static const int64_t TOP_DOWN = 64 * MIB;

/* No block, and not all segments together, may come to 2^53 units. That is 2^62 bytes (4 EiB), so the sum of any two
   such numbers of bytes still fits into 64 bits. */
#define SIZE_BITS 53
static const int64_t LARGEST = (int64_t)1 << SIZE_BITS;

/* Segments of at least TOP_DOWN units are given addresses downwards from CEILING, all others upwards from 0. Neither
   may cross the middle, so that every address of the first kind lies above all of the second. */
static const int64_t CEILING = (int64_t)1 << 60;

enum { DEVICE_FULL = -1, NO_MEMORY = -2, TOO_LARGE = -3, IMPOSSIBLE = -4 };

/* A part of a segment, in use or free. Other blocks are referred to by their index in Allocator.blocks, since the array
   moves when it grows; -1 stands for none. previous and next are the neighbours in the segment. lower and higher are
   the neighbours in the list of the block's size class, and mean something only while the block is free. */
typedef struct {
    int64_t address, size;
    int32_t previous, next;
    int32_t lower, higher;
    int8_t free, small;
} Block;

/* The free blocks of a pool are kept in size classes. Sizes below 64 units have a class each; from there on every power
   of two is divided into 32 classes, so that the sizes in a class differ by less than a 32nd. The list of a class is in
   the order in which best fit prefers its blocks: by size, and blocks of one size by address. */
#define CLASSES (((SIZE_BITS - 6) << 5) + 64)
#define WORDS (CLASSES / 64 + 1)
typedef struct {
    int32_t lowest[CLASSES], highest[CLASSES]; /* The ends of the lists. */
    uint64_t occupied[WORDS];                  /* One bit for each class, set while its list is not empty. */
    int32_t end;                               /* With expandable segments: the last block of the pool's range. */
} Pool;

typedef struct {
    int64_t limit, max_split_size; /* -1 where there is none. */
    int32_t expandable;
    int64_t reserved, peak;           /* Units of all segments: now, and the most so far. */
    int64_t allocated, most;          /* Units of all blocks in use: now, and the most in the present stretch. */
    int64_t segments;                 /* How often more memory was asked for, whether or not it was had. */
    int64_t next_address, low_address; /* Where the next segment that grows upwards begins, or downwards ends. */
    Pool pools[2];                    /* By Block.small. */
    Block *blocks;
    int32_t count, room; /* Entries of `blocks` that have been used, and that there is memory for. */
    int32_t unused;      /* Used entries that stand for no block any more, chained by `next`. */
    int32_t error;
} Allocator;

/* stretch.py describes it, native.py declares it again. */
typedef struct {
    const int32_t *events;
    int64_t num_events, times, step;
} Stretch;

/* -- The array of blocks --------------------------------------------------------------------------------------------*/

static int32_t new_block(Allocator *a, int64_t address, int64_t size, int small)
{
    int32_t index = a->unused;
    if (index >= 0) {
        a->unused = a->blocks[index].next;
    } else {
        if (a->count == a->room) {
            int32_t room = a->room ? 2 * a->room : 1024;
            Block *blocks = room > 0 ? realloc(a->blocks, (size_t)room * sizeof(Block)) : NULL;
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

/* -- Free blocks by size --------------------------------------------------------------------------------------------*/

static inline int top_bit(uint64_t word)
{
    return 63 - __builtin_clzll(word);
}

/* For a size of at least 64 units: its six highest bits, the first of which is set, choose among the 32 classes of its
   power of two. */
static inline int class_of(int64_t size)
{
    int shift = size < 64 ? 0 : top_bit((uint64_t)size) - 5;
    return (shift << 5) + (int)(size >> shift);
}

static inline int is_lower(const Block *one, const Block *other)
{
    return one->size != other->size ? one->size < other->size : one->address < other->address;
}

/* Take a free block out of its list. */
static void withdraw(Allocator *a, int32_t index)
{
    Block *b = &a->blocks[index];
    Pool *pool = &a->pools[b->small];
    int class = class_of(b->size);
    if (b->lower >= 0)
        a->blocks[b->lower].higher = b->higher;
    else
        pool->lowest[class] = b->higher;
    if (b->higher >= 0)
        a->blocks[b->higher].lower = b->lower;
    else
        pool->highest[class] = b->lower;
    if (b->lower < 0 && b->higher < 0)
        pool->occupied[class / 64] &= ~((uint64_t)1 << class % 64);
}

/* Put a free block into its list. The search starts at the lowest, unless the block comes after the highest, as it often
   does. */
static void offer(Allocator *a, int32_t index)
{
    Block *b = &a->blocks[index];
    Pool *pool = &a->pools[b->small];
    int class = class_of(b->size);
    int32_t lower = pool->highest[class], higher = -1;
    if (lower >= 0 && is_lower(b, &a->blocks[lower])) {
        lower = -1;
        higher = pool->lowest[class];
        while (is_lower(&a->blocks[higher], b)) {
            lower = higher;
            higher = a->blocks[higher].higher;
        }
    }
    b->lower = lower;
    b->higher = higher;
    if (lower >= 0)
        a->blocks[lower].higher = index;
    else
        pool->lowest[class] = index;
    if (higher >= 0)
        a->blocks[higher].lower = index;
    else
        pool->highest[class] = index;
    pool->occupied[class / 64] |= (uint64_t)1 << class % 64;
}

/* The smallest free block that is large enough, and of those of one size the one at the lowest address; -1 where there
   is none. In the request's own class some blocks may be too small. In every higher class all are large enough, so that
   the lowest block of the first one that is occupied is the answer. */
static int32_t smallest_sufficient(const Allocator *a, int64_t size, int small)
{
    const Pool *pool = &a->pools[small];
    int class = class_of(size);
    for (int32_t index = pool->lowest[class]; index >= 0; index = a->blocks[index].higher)
        if (a->blocks[index].size >= size)
            return index;
    int word = ++class / 64;
    uint64_t occupied = pool->occupied[word] >> class % 64 << class % 64;
    while (!occupied && ++word < WORDS)
        occupied = pool->occupied[word];
    return occupied ? pool->lowest[word * 64 + __builtin_ctzll(occupied)] : -1;
}

/* The same, and -1 where max_split_size forbids to use that block for the request. */
static int32_t best_fit(const Allocator *a, int64_t size, int small)
{
    int32_t index = smallest_sufficient(a, size, small);
    if (index >= 0 && a->max_split_size >= 0 && !small) {
        int64_t free_size = a->blocks[index].size;
        if (size < a->max_split_size ? free_size >= a->max_split_size : free_size >= size + LARGE_SEGMENT)
            return -1;
    }
    return index;
}

/* -- Memory from the device -----------------------------------------------------------------------------------------*/

static void return_unused(Allocator *a)
{
    for (int small = 0; small < 2; small++) {
        for (int class = 0; class < CLASSES; class++) {
            int32_t higher;
            for (int32_t index = a->pools[small].lowest[class]; index >= 0; index = higher) {
                higher = a->blocks[index].higher;
                if (a->blocks[index].previous < 0 && a->blocks[index].next < 0) {
                    a->reserved -= a->blocks[index].size;
                    withdraw(a, index);
                    drop_block(a, index);
                }
            }
        }
    }
}

/* Take that many units from the device; where it has too few left, return the unused segments first. */
static void take(Allocator *a, int64_t length)
{
    a->segments++;
    if (a->reserved + length >= LARGEST || a->next_address + length >= CEILING / 2 ||
        a->low_address - length < CEILING / 2) {
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

static int32_t new_segment(Allocator *a, int64_t size, int small)
{
    int64_t length = small ? SMALL_SEGMENT
                     : size < MIN_LARGE ? LARGE_SEGMENT
                                        : (size + ROUND_LARGE - 1) / ROUND_LARGE * ROUND_LARGE;
    take(a, length);
    if (a->error)
        return -1;
    if (length >= TOP_DOWN) {
        a->low_address -= length;
        return new_block(a, a->low_address, length, small);
    }
    a->next_address += length;
    return new_block(a, a->next_address - length, length, small);
}

/* The free block at the end of the pool's range, extended where it is too small. */
static int32_t extended_range(Allocator *a, int64_t size, int small)
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

/* -- Requests -------------------------------------------------------------------------------------------------------*/

/* The index of a block for a request of that many units; -1, with `error` set, where there is none to be had. */
static int32_t allocate(Allocator *a, int64_t size)
{
    int small = size <= SMALL_LIMIT;
    int32_t index = best_fit(a, size, small);
    if (index >= 0)
        withdraw(a, index);
    else
        index = a->expandable ? extended_range(a, size, small) : new_segment(a, size, small);
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
        Block *b = &a->blocks[index]; /* Only now: new_block may have moved the array. */
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
    a->allocated += a->blocks[index].size;
    if (a->allocated > a->most)
        a->most = a->allocated;
    return index;
}

/* Merge the second of two neighbours, which is in no list, into the first. */
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

/* Free a block, merged with its free neighbours. */
static void release(Allocator *a, int32_t index)
{
    int32_t previous = a->blocks[index].previous, next = a->blocks[index].next;
    a->blocks[index].free = 1;
    a->allocated -= a->blocks[index].size;
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

/* -- The replay -----------------------------------------------------------------------------------------------------*/

/* An event of a block that has bytes, with the block's size in units. */
typedef struct {
    int64_t size;
    int32_t event;
} Request;

/* What a block number stands for at present: an index in Allocator.blocks, and in which pass over a stretch it was
   allocated. Passes are counted from 1; 0 means that nothing has this number. */
typedef struct {
    int32_t block, pass;
} Live;

/* The stretch's events of blocks that have bytes, found out once for all its repetitions; how many there are. */
static int64_t select_requests(Allocator *a, const Stretch *stretch, const int64_t *sizes, int64_t num_tensors, int bits,
                               Request *requests)
{
    int64_t selected = 0;
    for (int64_t e = 0; e < stretch->num_events; e++) {
        int32_t event = stretch->events[e];
        int64_t tensor = (event >= 0 ? event : ~event) >> bits;
        if (tensor >= num_tensors) {
            a->error = IMPOSSIBLE;
            return 0;
        }
        int64_t bytes = sizes[tensor];
        if (bytes < 0 || bytes > (LARGEST - 1) * UNIT) {
            a->error = TOO_LARGE;
            return 0;
        }
        requests[selected] = (Request){(bytes + UNIT - 1) / UNIT, event};
        selected += bytes > 0;
    }
    return selected;
}

static void replay(Allocator *a, const Stretch *stretch, const Request *requests, int64_t num_requests, Live *live,
                   int64_t num_blocks, int32_t *pass)
{
    for (int64_t time = 0; time < stretch->times && !a->error; time++) {
        int64_t shift = time * stretch->step, segments = a->segments;
        int64_t left = 0;    /* Blocks that were allocated in this pass and not yet freed. */
        int has_freed_older = 0; /* Whether a block from before this pass was freed. */
        ++*pass;
        for (int64_t r = 0; r < num_requests && !a->error; r++) {
            int32_t event = requests[r].event;
            int64_t number = (event >= 0 ? event : ~event) + shift;
            if (number < 0 || number >= num_blocks || (event >= 0) != !live[number].pass) {
                a->error = IMPOSSIBLE;
            } else if (event >= 0) {
                live[number] = (Live){allocate(a, requests[r].size), *pass};
                left++;
            } else {
                release(a, live[number].block);
                if (live[number].pass == *pass)
                    left--;
                else
                    has_freed_older = 1;
                live[number].pass = 0;
            }
        }
        /* Free memory is what is not in use, all of it merged. A pass that has freed exactly what it allocated, and
           asked for no more memory, therefore leaves the allocator as it was: every further pass would do the same. */
        if (!has_freed_older && !left && a->segments == segments)
            break;
    }
}

/* The most bytes of all segments together at any time while the events happen. allocated: is given two numbers for each
   stretch, the most bytes of all blocks in use at any time in it, and those at its end.

   sizes: bytes of each tensor. The blocks with the numbers from n << bits up to before (n + 1) << bits are the copies of
   tensor n. A tensor of 0 bytes is left out. limit: bytes that the device has to give; max_split_size: in bytes; below
   zero, there is none.

   Instead of bytes, one of these is returned: DEVICE_FULL where the limit is not enough; NO_MEMORY where this machine's
   own memory is not; TOO_LARGE where a block or all segments come to LARGEST; IMPOSSIBLE where a block is allocated
   whose number is in use, or one is freed whose number is not, or a number is that of no tensor. */
int64_t memplanner_replay(const Stretch *stretches, int64_t num_stretches, const int64_t *sizes, int64_t num_tensors,
                          int32_t bits, int32_t expandable, int64_t max_split_size, int64_t limit, int64_t *allocated)
{
    Allocator a = {.limit = limit < 0 ? -1 : limit / UNIT,
                   .max_split_size = max_split_size < 0 ? -1 : (max_split_size + UNIT - 1) / UNIT,
                   .expandable = expandable,
                   .low_address = CEILING,
                   .unused = -1};
    for (int small = 0; small < 2; small++) {
        memset(a.pools[small].lowest, -1, sizeof a.pools[small].lowest);
        memset(a.pools[small].highest, -1, sizeof a.pools[small].highest);
        a.pools[small].end = -1;
    }
    int64_t most_events = 1;
    for (int64_t s = 0; s < num_stretches; s++)
        if (stretches[s].num_events > most_events)
            most_events = stretches[s].num_events;
    int64_t num_blocks = num_tensors << bits;
    Request *requests = malloc((size_t)most_events * sizeof *requests);
    Live *live = calloc((size_t)(num_blocks ? num_blocks : 1), sizeof *live);
    if (requests == NULL || live == NULL)
        a.error = NO_MEMORY;
    int32_t pass = 0;
    for (int64_t s = 0; s < num_stretches && !a.error; s++) {
        int64_t selected = select_requests(&a, &stretches[s], sizes, num_tensors, bits, requests);
        a.most = a.allocated;
        if (!a.error)
            replay(&a, &stretches[s], requests, selected, live, num_blocks, &pass);
        allocated[2 * s] = a.most * UNIT;
        allocated[2 * s + 1] = a.allocated * UNIT;
    }
    free(requests);
    free(live);
    free(a.blocks);
    return a.error ? a.error : a.peak * UNIT;
}
