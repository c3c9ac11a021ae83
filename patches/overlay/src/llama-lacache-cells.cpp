#include "llama-lacache-cells.h"

#include "llama-lacache.h"

#include "ggml.h"
#include "ggml-backend.h"
#include "llama-cparams.h"

// smaller than this there is nothing to win, and blocks of quantized V have 32 values, too
static constexpr int32_t CELL_STEP_CPU = 32;
static constexpr int32_t CELL_STEP_GPU = 256;

// true while llama_lacache_init_from_model() makes a context in this thread: upstream's parameters have no room for it
static thread_local bool is_exact = false;

int32_t llama_lacache_cell_step(void) {
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        switch (ggml_backend_dev_type(ggml_backend_dev_get(i))) {
            case GGML_BACKEND_DEVICE_TYPE_CPU:
            case GGML_BACKEND_DEVICE_TYPE_ACCEL:
                break;
            default:
                return CELL_STEP_GPU;
        }
    }
    return CELL_STEP_CPU;
}

void llama_lacache_set_n_ctx(const llama_context_params & params, llama_cparams & cparams) {
    // 0 is the trained context, several sequences share or split what they get, and absurd numbers fail: upstream's business
    if (!is_exact || params.n_ctx == 0 || params.n_ctx > INT32_MAX || cparams.n_seq_max != 1) {
        return;
    }
    cparams.n_ctx     = GGML_PAD(params.n_ctx, (uint32_t) llama_lacache_cell_step());
    cparams.n_ctx_seq = cparams.n_ctx;
}

struct llama_context * llama_lacache_init_from_model(struct llama_model * model, struct llama_context_params params) {
    struct scope {
        scope()  { is_exact = true; }
        ~scope() { is_exact = false; }
    } exact;

    return llama_init_from_model(model, params);
}
