#pragma once

// How many cells a KV cache gets.
//
// llama.cpp allocates cells in steps of 256, which the attention kernels of some GPU backends want. On CPUs any number
// will do, and a budget of bytes buys up to 224 cells more when it is used to the last one.

struct llama_context_params;
struct llama_cparams;

// sets n_ctx and n_ctx_seq for a context that llama_lacache_init_from_model() makes; others keep theirs
void llama_lacache_set_n_ctx(const llama_context_params & params, llama_cparams & cparams);
