// The logarithm of math/log.h against the library's in long double.
#include <cmath>
#include <cstring>
#include <random>

#include "../../kernels/math/log.h"

#include "support.h"

namespace
{

double ulps(double x)
{
    const long double want = std::log((long double)x);
    const double near = (double)want;
    const double unit = std::nextafter(std::fabs(near), INFINITY) - std::fabs(near);
    return (double)(std::fabs((long double)detent_log(x) - want) / unit);
}

TEST(Log, IsWithinTwoUnitsInTheLastPlace)
{
    std::mt19937_64 random(0);
    double worst = 0;
    for (int i = 0; i < 200000; ++i) {
        const uint64_t bits = random() % 0x7fe0000000000000u + 0x0010000000000000u; // any normal number
        double x;
        std::memcpy(&x, &bits, sizeof x);
        worst = std::max(worst, ulps(x));
    }
    for (int i = 1; i < 100000; ++i) worst = std::max(worst, ulps(i)); // counts
    EXPECT_LE(worst, 2);
}

TEST(Log, HoldsAroundOneAndAtThePowersOfTwo)
{
    EXPECT_EQ(detent_log(1.0), 0.0);
    for (int e = -1022; e <= 1023; ++e) EXPECT_LE(e == 0 ? 0 : ulps(std::ldexp(1.0, e)), 2) << e;
    for (double d = 1e-16; d < 0.5; d *= 3) {
        EXPECT_LE(ulps(1 + d + 1e-15), 2) << d;
        EXPECT_LE(ulps(1 - d - 1e-15), 2) << d;
    }
    EXPECT_TRUE(std::isfinite(detent_log(0.0)));
}

} // namespace
