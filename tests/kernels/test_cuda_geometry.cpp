// Which thread owns which element, proved on the host: kernels/cuda/geometry.h needs no CUDA.
#include "../../kernels/cuda/geometry.h"

#include <sstream>

#include "support.h"

using namespace detent_test;
using detent_cuda::Partition;
using detent_cuda::Run;
using detent_cuda::Task;

namespace
{

std::vector<detent_shape3> many_shapes()
{
    std::vector<detent_shape3> all = shapes();
    const detent_shape3 more[] = {{1, 1, 8191},   {1, 1, 8192},   {1, 1, 8193},  {1, 1, 100003}, {1, 3, 50176},
                                  {1, 3, 65537},  {4, 3, 49},     {64, 64, 49},  {256, 64, 1},   {20000, 3, 1},
                                  {5000, 7, 3},   {9, 1000, 1},   {8, 1000, 1},  {7, 1000, 1},   {1, 5000, 32},
                                  {1, 30000, 4},  {33, 5, 31},    {33, 5, 32},   {33, 5, 33},    {1, 512, 576},
                                  {2, 300, 1100}, {3, 300, 8200}, {8, 1000, 31}, {100, 257, 1},  {16, 300, 1},
                                  {1000, 33, 7},  {2048, 300, 1}, {700, 1, 700}, {12, 12, 8191}, {1, 1, 2000003}};
    all.insert(all.end(), std::begin(more), std::end(more));
    return all;
}

std::string text_of(detent_shape3 shape)
{
    std::ostringstream out;
    out << shape;
    return out.str();
}

bool is_power_of_two(size_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

// What a kernel does with a partition, as counts: owners of each element, deliveries of each partial.
class Emulation
{
  public:
    explicit Emulation(detent_shape3 shape)
        : part(detent_cuda::partition_of(shape)), owners(elements_of(shape)), deliveries(shape.groups * rows())
    {
    }

    size_t rows() const { return detent_cuda::partial_rows(part); }

    template <unsigned V, unsigned UNROLL> void run()
    {
        if (part.narrow)
            run_narrow<UNROLL>();
        else
            run_wide<V, UNROLL>();
    }

    Partition part;
    std::vector<uint8_t> owners, deliveries;
    size_t strangers = 0; // elements handed to a thread that sums for another group

  private:
    void deliver(size_t group, size_t row)
    {
        if (group < part.shape.groups && row < rows())
            ++deliveries[group * rows() + row];
        else
            ++strangers;
    }

    void own(size_t index, size_t group)
    {
        if (index >= owners.size() || group_at(part.shape, index) != group)
            ++strangers;
        else
            ++owners[index];
    }

    template <unsigned V, unsigned UNROLL> void run_wide()
    {
        const unsigned team = detent_cuda::team_of(part), teams = detent_cuda::tasks_per_block(part);
        const size_t tasks = detent_cuda::task_count(part);
        for (size_t block = 0; block * teams < tasks; ++block)
            for (unsigned thread = 0; thread < detent_cuda::THREADS; ++thread) {
                const size_t index = block * teams + thread / team;
                if (index >= tasks) continue;
                const Task task = detent_cuda::task_at(part, index);
                auto body = [&](size_t vector, size_t stride, Run run) {
                    for (unsigned turn = 0; turn < UNROLL; ++turn, vector += stride)
                        for (size_t i = vector * V; i < (vector + 1) * V; ++i)
                            if (i >= run.begin && i < run.end) own(i, task.group_begin);
                };
                detent_cuda::walk_wide<V, UNROLL>(part, task, thread % team, body);
                if (thread % team == 0) deliver(task.group_begin, task.row);
            }
    }

    template <unsigned UNROLL> void run_narrow()
    {
        for (size_t index = 0; index < detent_cuda::task_count(part); ++index) {
            const Task task = detent_cuda::task_at(part, index);
            for (unsigned thread = 0; thread < detent_cuda::THREADS; ++thread) {
                const size_t group = task.group_begin + thread % part.lanes / part.shape.inner;
                auto body = [&](size_t at, size_t stride, unsigned count) {
                    for (unsigned turn = 0; turn < count; ++turn) own(at + turn * stride, group);
                };
                detent_cuda::walk_narrow<UNROLL>(part, task, thread, body);
                if (thread < task.group_end - task.group_begin) deliver(task.group_begin + thread, task.row);
            }
        }
    }
};

template <unsigned V, unsigned UNROLL> void expect_every_element_has_one_owner(detent_shape3 shape)
{
    Emulation emulation(shape);
    if (elements_of(shape) == 0) {
        EXPECT_EQ(emulation.rows(), 0u) << text_of(shape);
        return;
    }
    emulation.run<V, UNROLL>();
    const std::string what = text_of(shape) + ", vectors of " + std::to_string(V);
    EXPECT_EQ(emulation.strangers, 0u) << what;
    for (size_t i = 0; i < emulation.owners.size(); ++i)
        if (emulation.owners[i] != 1) {
            ADD_FAILURE() << what << ": element " << i << " has " << (int)emulation.owners[i] << " owners";
            break;
        }
    for (size_t i = 0; i < emulation.deliveries.size(); ++i)
        if (emulation.deliveries[i] != 1) {
            ADD_FAILURE() << what << ": partial " << i << " is written " << (int)emulation.deliveries[i] << " times";
            break;
        }
}

} // namespace

TEST(CudaGeometry, every_element_of_a_reduction_has_one_owner_and_every_partial_one_group)
{
    for (const detent_shape3 shape : many_shapes()) {
        expect_every_element_has_one_owner<2, 2>(shape);
        expect_every_element_has_one_owner<4, 2>(shape);
        expect_every_element_has_one_owner<8, 2>(shape);
        expect_every_element_has_one_owner<8, 4>(shape);
    }
}

TEST(CudaGeometry, teams_are_warps_or_less_or_the_block)
{
    for (const detent_shape3 shape : many_shapes()) {
        if (elements_of(shape) == 0) continue;
        const Partition part = detent_cuda::partition_of(shape);
        EXPECT_TRUE(is_power_of_two(part.lanes) && is_power_of_two(part.row_lanes)) << text_of(shape);
        const unsigned team = detent_cuda::team_of(part);
        EXPECT_TRUE(team == detent_cuda::THREADS || (team <= detent_cuda::WARP && !part.narrow)) << text_of(shape);
        if (part.narrow) {
            EXPECT_LE(part.group_step * part.shape.inner, part.lanes) << text_of(shape);
        } else {
            EXPECT_EQ(part.group_step, 1u) << text_of(shape);
        }
    }
}

TEST(CudaGeometry, chunks_of_a_group_start_where_vectors_do)
{
    for (const detent_shape3 shape : many_shapes()) {
        const Partition part = detent_cuda::partition_of(shape);
        EXPECT_TRUE(part.inner_count <= 1 || part.inner_step % 8 == 0) << text_of(shape);
    }
}

TEST(CudaGeometry, skewed_shapes_keep_the_device_busy_and_the_partials_few)
{
    const size_t million = 1 << 20;
    const detent_shape3 large[] = {{1, 1, 64 * million}, {1, 3, 2 * million},    {1, million, 32}, {1, million, 1},
                                   {million, 64, 1},     {million, 3, 1},        {64, million, 1}, {256, 64, 3136},
                                   {32, 2048, 49},       {1, 4096, 4096},        {4096, 4096, 1},  {million, 5, 7},
                                   {2, 2, 8 * million},  {1, 1, 4096 * million}, {4, million, 31}, {million, 1, 31}};
    for (const detent_shape3 shape : large) {
        const Partition part = detent_cuda::partition_of(shape);
        const size_t elements = elements_of(shape), tasks = detent_cuda::task_count(part);
        const size_t blocks = part.narrow ? tasks : detent_cuda::ceil_div(tasks, detent_cuda::tasks_per_block(part));
        EXPECT_GE(blocks, 256u) << text_of(shape);
        EXPECT_LE(detent_cuda::partial_count(part), elements / 32) << text_of(shape);
        EXPECT_LE(detent_cuda::partial_rows(part), 2 * detent_cuda::MOST_TASKS) << text_of(shape);
        // No task is much larger than the others' target, and none is idle in the main.
        const size_t owned = part.outer_step * part.group_step * part.inner_step;
        EXPECT_LE(owned, 2 * detent_cuda::most(detent_cuda::TASK, elements / detent_cuda::MOST_TASKS * 2))
            << text_of(shape);
    }
}

// Per channel of an image, of a pooled feature map, in blocks of 32: on the narrow shapes of real networks two blocks
// for each of 132 multiprocessors, or all that have two vectors for a thread.
TEST(CudaGeometry, narrow_shapes_keep_many_multiprocessors_busy)
{
    const size_t wanted = 2 * 132;
    const detent_shape3 narrow[] = {{1, 3, 224 * 224},  {1, 3, 640 * 480},    {1, 3, 2160 * 3840}, {8, 3, 224 * 224},
                                    {32, 2048, 1},      {256, 2048, 1},       {4096, 2048, 1},     {1, 2048, 1},
                                    {128, 1000, 1},     {1, 4096 * 344, 32},  {1, 344, 4096 * 32}, {64, 64, 3136},
                                    {1, 1, 2048 * 264}, {1, 1, 4096 * 11008}, {1, 64, 147},        {2048, 3, 1}};
    for (const detent_shape3 shape : narrow) {
        const Partition part = detent_cuda::partition_of(shape);
        const size_t blocks = detent_cuda::reduce_blocks(part), elements = elements_of(shape);
        EXPECT_GE(blocks, std::min(wanted, elements / detent_cuda::LEAST_TASK)) << text_of(shape);
        if (elements >= wanted * detent_cuda::TASK) {
            EXPECT_GE(blocks, wanted) << text_of(shape);
        }
        EXPECT_GE(detent_cuda::map_tiles(elements, 4), std::min(wanted, elements / detent_cuda::LEAST_TASK))
            << text_of(shape);
    }
}

// Tensors that no test can hold: every task's ends by arithmetic, and who owns elements beyond 2^31 and 2^32.
TEST(CudaGeometry, huge_shapes_are_divided_without_gaps_and_without_overflow)
{
    const size_t giga = UINT64_C(1) << 30;
    const detent_shape3 huge[] = {{1, 1, 2 * giga + 1}, {1, 1, 4 * giga + 7}, {1, 3, 2 * giga - 1},
                                  {3, giga + 1, 3},     {4 * giga + 1, 3, 1}, {1, 5 * giga, 32},
                                  {2 * giga, 5, 7},     {7, 33, giga / 8 + 3}};
    for (const detent_shape3 shape : huge) {
        const Partition part = detent_cuda::partition_of(shape);
        const size_t elements = elements_of(shape), tasks = detent_cuda::task_count(part);
        std::vector<size_t> sampled = {0, 1, tasks / 3, tasks / 2, tasks - 2, tasks - 1};
        for (const size_t index : sampled) {
            if (index >= tasks) continue;
            const Task task = detent_cuda::task_at(part, index);
            EXPECT_TRUE(task.outer_begin < task.outer_end && task.outer_end <= part.shape.outer) << text_of(shape);
            EXPECT_TRUE(task.group_begin < task.group_end && task.group_end <= part.shape.groups) << text_of(shape);
            EXPECT_TRUE(task.inner_begin < task.inner_end && task.inner_end <= part.shape.inner) << text_of(shape);
            EXPECT_LT(task.row, detent_cuda::partial_rows(part)) << text_of(shape);
            // The steps tile each dimension: what one task ends with, the next begins with.
            EXPECT_EQ(task.outer_begin % part.outer_step + task.group_begin % part.group_step +
                          task.inner_begin % part.inner_step,
                      0u)
                << text_of(shape);
        }
        EXPECT_GE(part.outer_count * part.outer_step, part.shape.outer) << text_of(shape);
        EXPECT_GE(part.group_count * part.group_step, part.shape.groups) << text_of(shape);
        EXPECT_GE(part.inner_count * part.inner_step, part.shape.inner) << text_of(shape);

        // The last task reaches the last element, and its threads nothing beyond.
        const Task last = detent_cuda::task_at(part, tasks - 1);
        size_t most = 0, owned = 0;
        for (unsigned thread = 0; thread < detent_cuda::team_of(part); ++thread) {
            auto vectors = [&](size_t vector, size_t stride, detent_cuda::Run run) {
                for (unsigned turn = 0; turn < 2; ++turn, vector += stride)
                    for (size_t i = std::max(run.begin, vector * 4); i < std::min(run.end, (vector + 1) * 4); ++i)
                        most = std::max(most, i), ++owned;
            };
            auto column = [&](size_t at, size_t stride, unsigned count) {
                for (unsigned turn = 0; turn < count; ++turn) most = std::max(most, at + turn * stride), ++owned;
            };
            if (part.narrow)
                detent_cuda::walk_narrow<2>(part, last, thread, column);
            else
                detent_cuda::walk_wide<4, 2>(part, last, thread, vectors);
        }
        EXPECT_EQ(most, elements - 1) << text_of(shape);
        EXPECT_EQ(owned, (last.outer_end - last.outer_begin) * (last.group_end - last.group_begin) *
                             (last.inner_end - last.inner_begin))
            << text_of(shape);

        // Maps: the last tile holds the last vector, and places beyond 2^32 are found by true division.
        const size_t tiles = detent_cuda::map_tiles(elements, 4);
        EXPECT_GE(detent_cuda::map_vector(tiles - 1, detent_cuda::THREADS - 1, detent_cuda::MAP_UNROLL - 1),
                  (elements - 1) / 4)
            << text_of(shape);
        EXPECT_LE(detent_cuda::map_vector(tiles - 1, 0, 0), (elements - 1) / 4) << text_of(shape);
        const detent_cuda::Locator locator = detent_cuda::locator_of(shape);
        for (const size_t i : {(size_t)0, 2 * giga - 1, 2 * giga, elements / 2, elements - 1}) {
            const detent_cuda::Place place = detent_cuda::place_of(locator, i, 8);
            EXPECT_EQ(place.group, group_at(shape, i)) << text_of(shape) << ", index " << i;
            EXPECT_EQ(place.left, std::min<size_t>(8, shape.inner - i % shape.inner))
                << text_of(shape) << ", index " << i;
        }
    }
}

TEST(CudaGeometry, a_partition_depends_on_the_shape_alone_and_single_rows_need_no_workspace)
{
    for (const detent_shape3 shape : many_shapes()) {
        const Partition part = detent_cuda::partition_of(shape), again = detent_cuda::partition_of(shape);
        EXPECT_EQ(std::memcmp(&part, &again, sizeof part), 0) << text_of(shape);
        const size_t rows = detent_cuda::partial_rows(part);
        EXPECT_EQ(detent_cuda::partial_count(part), rows > 1 ? rows * part.shape.groups : 0) << text_of(shape);
    }
}

template <unsigned V> static void expect_map_covers(size_t elements)
{
    using namespace detent_cuda;
    std::vector<uint8_t> owners(elements), mask_owners((elements + 7) / 8);
    const unsigned sharers = 8 / V;
    for (size_t tile = 0; tile < map_tiles(elements, V); ++tile)
        for (unsigned turn = 0; turn < MAP_UNROLL; ++turn)
            for (unsigned thread = 0; thread < THREADS; ++thread) {
                const size_t vector = map_vector(tile, thread, turn);
                for (size_t i = vector * V; i < std::min(elements, (vector + 1) * V); ++i) ++owners[i];
                if (vector * V >= elements) continue;
                // The threads that share a byte are neighbours in one warp, and the first of them writes it.
                EXPECT_EQ(vector % sharers, thread % sharers);
                if (thread % sharers == 0) ++mask_owners[vector * V / 8];
            }
    for (size_t i = 0; i < elements; ++i) ASSERT_EQ(owners[i], 1) << "element " << i << " of " << elements;
    for (size_t i = 0; i < mask_owners.size(); ++i)
        ASSERT_EQ(mask_owners[i], 1) << "byte " << i << " of " << elements << " elements";
}

TEST(CudaGeometry, every_element_of_a_map_and_every_mask_byte_has_one_owner)
{
    for (const size_t elements : {0, 1, 7, 8, 9, 511, 512, 513, 1021, 2047, 2048, 2049, 4095, 4096, 4097, 100003}) {
        expect_map_covers<2>(elements);
        expect_map_covers<4>(elements);
        expect_map_covers<8>(elements);
    }
}

// --- several items in one launch -------------------------------------------------------------------------------------

namespace
{

// What a launch over several items gives to each block: its item, and which of the item's blocks it is.
template <typename F> void for_each_block(const std::vector<size_t> &blocks, F f)
{
    std::vector<size_t> first(1, 0);
    for (const size_t of_item : blocks) first.push_back(first.back() + of_item);
    for (size_t block = 0; block < first.back(); ++block) {
        const unsigned item = detent_cuda::item_at(first.data(), (unsigned)blocks.size(), block);
        ASSERT_LT(item, blocks.size());
        ASSERT_GE(block, first[item]);
        f(item, block - first[item]);
    }
}

std::vector<std::vector<detent_shape3>> many_lists()
{
    const std::vector<detent_shape3> all = many_shapes();
    std::vector<std::vector<detent_shape3>> lists = {{}, {{1, 0, 4}}, {{0, 1, 1}, {1, 1, 1}, {2, 3, 0}}, all};
    std::mt19937_64 random(11);
    for (const size_t count : {1, 2, 3, 17, 64}) {
        std::vector<detent_shape3> list;
        for (size_t i = 0; i < count; ++i) list.push_back(all[random() % all.size()]);
        lists.push_back(list);
    }
    return lists;
}

} // namespace

template <unsigned V> static void expect_map_of_many_covers(const std::vector<detent_shape3> &shapes)
{
    using namespace detent_cuda;
    std::vector<size_t> blocks;
    std::vector<std::vector<uint8_t>> owners;
    for (const detent_shape3 shape : shapes) {
        owners.emplace_back(detent_test::elements_of(shape));
        blocks.push_back(map_tiles(owners.back().size(), V));
    }
    for_each_block(blocks, [&](unsigned item, size_t tile) {
        for (unsigned turn = 0; turn < MAP_UNROLL; ++turn)
            for (unsigned thread = 0; thread < THREADS; ++thread) {
                const size_t vector = map_vector(tile, thread, turn);
                for (size_t i = vector * V; i < std::min(owners[item].size(), (vector + 1) * V); ++i) ++owners[item][i];
            }
    });
    for (size_t item = 0; item < shapes.size(); ++item)
        for (size_t i = 0; i < owners[item].size(); ++i)
            ASSERT_EQ(owners[item][i], 1) << "element " << i << " of item " << item << " of " << shapes.size() << ", "
                                          << text_of(shapes[item]) << ", vectors of " << V;
}

TEST(CudaGeometry, every_element_of_every_item_has_one_owner)
{
    for (const auto &shapes : many_lists()) {
        expect_map_of_many_covers<4>(shapes);
        expect_map_of_many_covers<8>(shapes);
    }
}

// That the blocks of one item own each of its elements once is proved above.
TEST(CudaGeometry, every_block_of_every_reduction_runs_once)
{
    for (const auto &shapes : many_lists())
        for (const bool finishing : {false, true}) {
            std::vector<size_t> blocks;
            std::vector<std::vector<uint8_t>> runs;
            for (const detent_shape3 shape : shapes) {
                const Partition part = detent_cuda::partition_of(shape);
                blocks.push_back(finishing ? detent_cuda::finish_blocks(part) : detent_cuda::reduce_blocks(part));
                runs.emplace_back(blocks.back());
                // An empty tensor has nothing to sum, and its sums are written all the same.
                if (elements_of(shape) == 0) {
                    EXPECT_EQ(blocks.back() > 0, finishing && shape.groups > 0) << text_of(shape);
                } else {
                    EXPECT_EQ(blocks.back() > 0, !finishing || detent_cuda::partial_rows(part) > 1) << text_of(shape);
                }
            }
            for_each_block(blocks, [&](unsigned item, size_t block) { ++runs[item].at(block); });
            for (const auto &of_item : runs)
                for (const uint8_t count : of_item) ASSERT_EQ(count, 1);
        }
}

TEST(CudaGeometry, a_place_names_the_group_and_what_is_left_of_it)
{
    for (const detent_shape3 shape : many_shapes()) {
        const detent_cuda::Locator locator = detent_cuda::locator_of(shape);
        for (size_t i = 0; i < elements_of(shape); i += 1 + i / 1000) {
            const detent_cuda::Place place = detent_cuda::place_of(locator, i, 8);
            ASSERT_EQ(place.group, group_at(shape, i)) << text_of(shape) << ", index " << i;
            ASSERT_EQ(place.left, std::min<size_t>(8, shape.inner - i % shape.inner))
                << text_of(shape) << ", index " << i;
        }
    }
}

TEST(CudaGeometry, division_by_a_known_number_is_division)
{
    std::mt19937_64 random(7);
    std::vector<uint64_t> numbers = {1, 2, 3, 5, 7, 9, 31, 32, 33, 641, 65535, 65536, 65537};
    for (const uint64_t centre : {UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(1) << 40})
        for (int64_t offset = -3; offset <= 3; ++offset) numbers.push_back(centre + (uint64_t)offset);
    for (int i = 0; i < 200; ++i) numbers.push_back((random() >> (random() % 60)) + 1);
    for (const uint64_t divisor : numbers)
        for (const uint64_t bound : {UINT64_C(0xffffffff), UINT64_C(1) << 62}) {
            const detent_cuda::Divider by = detent_cuda::divider_of(divisor, bound);
            EXPECT_EQ(by.quick != 0, divisor <= UINT32_MAX && bound <= UINT32_MAX);
            for (const uint64_t dividend : numbers)
                for (const uint64_t at : {dividend, dividend * divisor, dividend * divisor - 1, bound}) {
                    if (at > bound) continue;
                    ASSERT_EQ(detent_cuda::divide(at, by), at / divisor) << at << " / " << divisor;
                }
        }
}
