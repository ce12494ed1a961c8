/* fake_quantize_many.c for one real type: what the pieces of one item are. */
static void DETENT_REAL(map_item)(const detent_many *many, size_t item, void *workspace, int64_t begin, int64_t end)
{
    (void)workspace;
    const detent_fake_quantize_item *it = (const detent_fake_quantize_item *)many->items + item;
    DETENT_REAL(detent_map)
    map = DETENT_REAL(detent_fake_quantize_map)(it->x, it->y, it->mask, many->dtype, it->shape, &it->encoding, NULL);
    DETENT_REAL(detent_map_blocks)(begin, end, &map);
}

static void DETENT_REAL(map_dynamic_item)(const detent_many *many, size_t item, void *workspace, int64_t begin,
                                          int64_t end)
{
    (void)workspace;
    const detent_fake_quantize_dynamic_item *it = (const detent_fake_quantize_dynamic_item *)many->items + item;
    const detent_encoding derived = derived_of(it);
    DETENT_REAL(detent_map)
    map = DETENT_REAL(detent_fake_quantize_map)(it->x, it->y, it->mask, many->dtype, it->shape, &derived, NULL);
    DETENT_REAL(detent_map_blocks)(begin, end, &map);
}

static void DETENT_REAL(observe_dynamic_item)(const detent_many *many, size_t item, void *workspace, int64_t begin,
                                              int64_t end)
{
    const detent_fake_quantize_dynamic_item *it = (const detent_fake_quantize_dynamic_item *)many->items + item;
    detent_observation observed = observation_of(it, many->dtype, workspace);
    DETENT_REAL(detent_observe_tiles)(begin, end, &observed);
}

static void DETENT_REAL(join_observed_item)(const detent_many *many, size_t item, void *workspace, int64_t begin,
                                            int64_t end)
{
    const detent_fake_quantize_dynamic_item *it = (const detent_fake_quantize_dynamic_item *)many->items + item;
    detent_observation observed = observation_of(it, many->dtype, workspace);
    DETENT_REAL(detent_observe_groups)(begin, end, &observed);
}

/* Of statistics that join_observed_item left. */
static void DETENT_REAL(range_dynamic_item)(const detent_many *many, size_t item, void *workspace, int64_t begin,
                                            int64_t end)
{
    const detent_fake_quantize_dynamic_item *it = (const detent_fake_quantize_dynamic_item *)many->items + item;
    const detent_observation observed = observation_of(it, many->dtype, workspace);
    const size_t bytes = many->dtype == DETENT_F64 ? sizeof(double) : sizeof(float);
    const size_t first = (size_t)begin, groups = (size_t)(end - begin);
    const real *clip = it->clip;
    const int each = clip != NULL && it->clip_count != 1;
    DETENT_REAL(detent_range_of_clipped)
    ((const char *)observed.min + first * bytes, (const char *)observed.max + first * bytes, many->dtype,
     each ? clip + first : clip, each ? groups : 1, (real *)it->min + first, (real *)it->max + first, groups,
     &it->encoding);
}

static DETENT_REAL(detent_reduce) DETENT_REAL(reduction_of)(const detent_many *many, size_t item, void *workspace)
{
    const detent_fake_quantize_bwd_item *it = (const detent_fake_quantize_bwd_item *)many->items + item;
    return DETENT_REAL(detent_fake_quantize_reduce)(it->grad_y, it->x, it->grad_x, it->grad_first, it->grad_second,
                                                    many->dtype, it->shape, &it->encoding, NULL, it->gradient_scale,
                                                    workspace);
}

static void DETENT_REAL(reduce_item)(const detent_many *many, size_t item, void *workspace, int64_t begin, int64_t end)
{
    DETENT_REAL(detent_reduce) reduce = DETENT_REAL(reduction_of)(many, item, workspace);
    DETENT_REAL(detent_reduce_tiles)(begin, end, &reduce);
}

static void DETENT_REAL(finish_item)(const detent_many *many, size_t item, void *workspace, int64_t begin, int64_t end)
{
    DETENT_REAL(detent_reduce) reduce = DETENT_REAL(reduction_of)(many, item, workspace);
    DETENT_REAL(detent_reduce_groups)(begin, end, &reduce);
}
