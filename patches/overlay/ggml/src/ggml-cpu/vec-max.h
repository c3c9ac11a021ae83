// The largest of a row of numbers, in lanes
//
// One after the other, every comparison waits for the one before it: four cycles a number, most of a
// softmax. A row without NaN has one largest number, however it is looked for.

#pragma once

#define GGML_VEC_MAX_LANES 16

// n >= GGML_VEC_MAX_LANES
static inline float ggml_vec_max_lanes(int n, const float * x) {
    float lane[GGML_VEC_MAX_LANES];

    for (int j = 0; j < GGML_VEC_MAX_LANES; ++j) {
        lane[j] = x[j];
    }

    int i = GGML_VEC_MAX_LANES;

    for (; i + GGML_VEC_MAX_LANES <= n; i += GGML_VEC_MAX_LANES) {
        for (int j = 0; j < GGML_VEC_MAX_LANES; ++j) {
            lane[j] = lane[j] > x[i + j] ? lane[j] : x[i + j];
        }
    }

    float max = lane[0];

    for (int j = 1; j < GGML_VEC_MAX_LANES; ++j) {
        max = max > lane[j] ? max : lane[j];
    }
    for (; i < n; ++i) {
        max = max > x[i] ? max : x[i];
    }

    return max;
}
