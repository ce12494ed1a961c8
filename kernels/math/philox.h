/* Philox 4x32-10 (Salmon 2011): random words that are a function of a key and a counter. */
#ifndef DETENT_MATH_PHILOX_H
#define DETENT_MATH_PHILOX_H

#include <stdint.h>

#include "host_device.h"

typedef struct detent_random_words {
    uint32_t at[4];
} detent_random_words;

/* The counter is low + 2^64 high. */
static DETENT_HD detent_random_words detent_philox(uint64_t key, uint64_t low, uint64_t high)
{
    detent_random_words words = {
        {(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32)},
    };
    uint32_t first_key = (uint32_t)key, second_key = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = UINT64_C(0xd2511f53) * words.at[0], second = UINT64_C(0xcd9e8d57) * words.at[2];
        words.at[0] = (uint32_t)(second >> 32) ^ words.at[1] ^ first_key;
        words.at[1] = (uint32_t)second;
        words.at[2] = (uint32_t)(first >> 32) ^ words.at[3] ^ second_key;
        words.at[3] = (uint32_t)first;
        first_key += UINT32_C(0x9e3779b9);
        second_key += UINT32_C(0xbb67ae85);
    }
    return words;
}

/* In [0, 1), a multiple of 2^-24: float32 holds it and 1 minus it exactly. */
static DETENT_HD float detent_uniform_of(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

#endif
