/* What an observer counts, and how two sets of statistics become one. */
#ifndef DETENT_MATH_OBSERVE_H
#define DETENT_MATH_OBSERVE_H

#include <math.h>

#define DETENT_FORMULAS "observe.inl"
#include "for_each_real.h"

#endif
