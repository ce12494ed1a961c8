/* The natural logarithm in plain arithmetic: loops over it become vectors, and CPU and CUDA agree in every bit. */
#ifndef DETENT_MATH_LOG_H
#define DETENT_MATH_LOG_H

#include <stdint.h>
#include <string.h>

#include "host_device.h"

/* Of a positive number no smaller than 2^-1022, within 2 units in the last place; of 0 something finite.
 * x = 2^e m with m between sqrt(1/2) and sqrt(2);  log m = 2 artanh(s), s = (m - 1) / (m + 1), by its power series. */
static DETENT_HD double detent_log(double x)
{
    uint64_t bits, mantissa, exponent;
    double m, e;
    memcpy(&bits, &x, sizeof bits);
    /* 2^52 + the biased exponent: integers become doubles by their bits, which every vector unit can. */
    exponent = (bits >> 52) | 0x4330000000000000u;
    mantissa = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    memcpy(&e, &exponent, sizeof e);
    memcpy(&m, &mantissa, sizeof m);
    const double large = m > 1.4142135623730951 ? 1.0 : 0.0;
    e = e - 4503599627370496.0 - 1023.0 + large;
    m = m * (1.0 - 0.5 * large);
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    /* Estrin's scheme: pairs first, for a short chain of dependent operations. */
    const double zz = z * z, zzzz = zz * zz;
    const double low = (1.0 / 3.0 + z * (1.0 / 5.0)) + zz * (1.0 / 7.0 + z * (1.0 / 9.0));
    const double middle = (1.0 / 11.0 + z * (1.0 / 13.0)) + zz * (1.0 / 15.0 + z * (1.0 / 17.0));
    const double sum = low + zzzz * (middle + zzzz * (1.0 / 19.0 + z * (1.0 / 21.0)));
    return e * 0.6931471805599453 + (2.0 * s + 2.0 * s * z * sum);
}

#endif
