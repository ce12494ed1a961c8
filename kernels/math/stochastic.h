/* Stochastic rounding of one element. */
#ifndef DETENT_MATH_STOCHASTIC_H
#define DETENT_MATH_STOCHASTIC_H

#include "fake_quantize.h"
#include "philox.h"

#define DETENT_FORMULAS "stochastic.inl"
#include "for_each_real.h"

#endif
