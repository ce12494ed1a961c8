// Packing and unpacking of masks: the definition, bit by bit, at every length around a byte and a piece.
#include <vector>

#include <gtest/gtest.h>

#include "detent/mask.h"

namespace
{

TEST(Mask, packs_and_unpacks_by_the_definition)
{
    for (const size_t n : {0, 1, 7, 8, 9, 31, 512, 65535, 65536, 65537, 200003}) {
        std::vector<uint8_t> inside(n + 1, 1), mask((n + 7) / 8 + 1, 0xa5), back(n + 1, 0xa5);
        for (size_t i = 0; i < n; ++i) inside[i] = (i * i + i / 3) % 5 < 2;
        ASSERT_EQ(detent_pack_mask_cpu(inside.data(), mask.data(), n, nullptr), DETENT_OK);
        EXPECT_EQ(mask.back(), 0xa5);
        for (size_t i = 0; i < (mask.size() - 1) * 8; ++i)
            ASSERT_EQ(mask[i / 8] >> i % 8 & 1, i < n ? inside[i] : 0) << "bit " << i << " of " << n;
        ASSERT_EQ(detent_unpack_mask_cpu(mask.data(), back.data(), n, nullptr), DETENT_OK);
        EXPECT_EQ(back.back(), 0xa5);
        for (size_t i = 0; i < n; ++i) ASSERT_EQ(back[i], inside[i]) << "element " << i << " of " << n;
    }
    uint8_t byte = 1;
    EXPECT_EQ(detent_pack_mask_cpu(nullptr, &byte, 1, nullptr), DETENT_BAD_ARGUMENT);
    EXPECT_EQ(detent_unpack_mask_cpu(&byte, nullptr, 1, nullptr), DETENT_BAD_ARGUMENT);
}

} // namespace
