// Lists of problems, as the weights of a network are.
#ifndef DETENT_TEST_MANY_H
#define DETENT_TEST_MANY_H

#include "problem.h"

namespace detent_test
{

// Weights of a network: long, short and empty groups, more blocks and tiles than one, in no order.
const detent_shape3 many_weights[] = {{1, 16, 27}, {1, 1, 20000}, {3, 5, 67}, {1, 0, 4},    {1, 1, 1},    {1, 70, 512},
                                      {7, 33, 1},  {1, 2, 9001},  {2, 3, 0},  {100, 70, 3}, {1, 130, 15}, {5, 1, 513}};

inline std::vector<Problem> problems_of(detent_dtype dtype, bool wide, Form form, size_t count, uint64_t seed)
{
    std::vector<GridCase> all;
    for (const GridCase &on : grids())
        if ((detent_math_dtype(dtype, on.grid) == DETENT_F64) == wide) all.push_back(on);
    std::vector<Problem> problems;
    problems.reserve(count); // an encoding points into its problem
    for (size_t i = 0; i < count; ++i)
        problems.push_back(make_problem(dtype, many_weights[(i * 5 + seed) % std::size(many_weights)],
                                        all[(i + seed) % all.size()], form, form == Form::range, seed + i,
                                        Specials::all));
    return problems;
}

inline std::string described(const std::vector<Problem> &problems, size_t i)
{
    return "item " + std::to_string(i) + " of " + std::to_string(problems.size()) + ", " + problems[i].describe();
}

} // namespace detent_test
#endif
