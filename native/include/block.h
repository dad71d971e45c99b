/* A block of query rows, and what belongs to its tiles; see attention.c. The fields are those of block.ts. */
#pragma once
#include "operations.h"
#include "simd.h"

enum {
  ROWS = 64, /* query rows of a block */
  KEYS = 48, /* keys of a tile */
  TILE_FLOATS = ROWS * KEYS,
};

/* Keys of tile t, rounded up to 8: the padding of K and V is zeros. */
static inline int keys_of_tile(const Block *b, int t) { return least(KEYS, (b->keys - t * KEYS + 7) & ~7); }

/* Where tile t begins in an array with `floats` floats a tile. */
static inline long at_tile(const Block *b, int t, long floats) { return (long)(t - b->origin) * floats; }

/* Whether no row of the block sees a key of the tile. */
int OF_SET(tile_is_hidden)(const Block *b, int t);
