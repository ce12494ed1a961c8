#include <climits>
#include <set>

#include "support.h"

extern "C" const char *status_text_through_c(detent_status status);

using namespace detent_test;

TEST(Base, every_status_has_its_own_text)
{
    std::set<std::string> texts;
    for (detent_status status = DETENT_OK; status <= DETENT_LAUNCH_FAILED; ++status) {
        ASSERT_NE(detent_status_text(status), nullptr);
        texts.insert(detent_status_text(status));
        EXPECT_STREQ(detent_status_text(status), status_text_through_c(status));
    }
    EXPECT_EQ(texts.size(), 7u);
    EXPECT_EQ(texts.count(""), 0u);
    EXPECT_STREQ(detent_status_text(DETENT_OK), "ok");
}

TEST(Base, numbers_that_are_no_status_have_a_text_too)
{
    for (const detent_status status : {-1, 7, 1000, INT_MIN, INT_MAX})
        EXPECT_STREQ(detent_status_text(status), "unknown status");
}

TEST(Base, numbers_are_frozen)
{
    EXPECT_EQ(DETENT_OK, 0);
    EXPECT_EQ(DETENT_BAD_ARGUMENT, 1);
    EXPECT_EQ(DETENT_BAD_SHAPE, 2);
    EXPECT_EQ(DETENT_BAD_GRID, 3);
    EXPECT_EQ(DETENT_BAD_DTYPE, 4);
    EXPECT_EQ(DETENT_WORKSPACE_SMALL, 5);
    EXPECT_EQ(DETENT_LAUNCH_FAILED, 6);
    const detent_dtype dtypes[] = {DETENT_F32, DETENT_F16, DETENT_BF16, DETENT_F64,
                                   DETENT_I8,  DETENT_U8,  DETENT_I16,  DETENT_I32};
    for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(dtypes[i], i);
}

TEST(Base, grid_centre_rounds_halves_to_even)
{
    const struct {
        int64_t qmin, qmax, centre;
    } cases[] = {{-128, 127, 0},
                 {-127, 127, 0},
                 {0, 255, 128},
                 {0, 15, 8},
                 {-8, 7, 0},
                 {0, 1, 0},
                 {1, 2, 2},
                 {-2, -1, -2},
                 {-1, 0, 0},
                 {0, 3, 2},
                 {-3, 0, -2},
                 {-4, -1, -2},
                 {-5, -2, -4},
                 {2, 3, 2},
                 {INT32_MIN, INT32_MAX, 0},
                 {0, UINT32_MAX, INT64_C(1) << 31},
                 {INT32_MIN, UINT32_MAX, 1073741824}};
    for (const auto &c : cases) EXPECT_EQ(detent_grid_centre({c.qmin, c.qmax}), c.centre) << c.qmin << " .. " << c.qmax;

    std::mt19937_64 random(5);
    for (int i = 0; i < 20000; ++i) {
        const int64_t qmin = (int64_t)(random() % 4000) - 2000, qmax = qmin + 1 + (int64_t)(random() % 4000);
        EXPECT_EQ(detent_grid_centre({qmin, qmax}), (int64_t)std::rint((double)(qmin + qmax) / 2))
            << qmin << " .. " << qmax;
    }
}

TEST(Base, arithmetic_is_double_for_double_data_and_for_grids_beyond_2_to_the_23)
{
    const int64_t edge = INT64_C(1) << 23;
    const struct {
        detent_grid grid;
        bool wide;
    } cases[] = {{{-128, 127}, false},         {{-edge, edge}, false},         {{0, edge}, false},
                 {{-edge, 0}, false},          {{-edge - 1, 0}, true},         {{0, edge + 1}, true},
                 {{edge + 1, edge + 2}, true}, {{INT32_MIN, INT32_MAX}, true}, {{0, UINT32_MAX}, true}};
    for (const auto &c : cases) {
        for (const detent_dtype dtype : {DETENT_F32, DETENT_F16, DETENT_BF16})
            EXPECT_EQ(detent_math_dtype(dtype, c.grid), c.wide ? DETENT_F64 : DETENT_F32)
                << name_of(dtype) << ", " << c.grid.qmin << " .. " << c.grid.qmax;
        EXPECT_EQ(detent_math_dtype(DETENT_F64, c.grid), DETENT_F64);
    }
}

TEST(Base, dispatch_names_an_instruction_set)
{
    const std::string name = detent_cpu_dispatch();
    EXPECT_TRUE(name == "x86-64-v4" || name == "x86-64-v3" || name == "default") << name;
}
