"""Starting vLLM in this process and asking it things."""

import torch
from vllm import LLM, SamplingParams

PROMPTS = [[5, 17, 300, 7, 42], [900, 1, 2, 3], [11] * 9]


def start(folder, **options):
    options = {"weight_transfer_config": {"backend": "weft"}} | options
    return LLM(str(folder), skip_tokenizer_init=True, enforce_eager=True,
               dtype="bfloat16", max_model_len=256, max_num_seqs=4,
               disable_log_stats=True, **options)


def core_of(llm):
    return llm.llm_engine.engine_core.engine_core


def worker_of(llm):
    return core_of(llm).model_executor.driver_worker.worker


def model_of(llm):
    return worker_of(llm).get_model()


def answers(llm, prompts=PROMPTS, tokens=12, **request):
    """[(token ids, their log-probabilities)], greedy. `request` goes to
    generate()."""
    sampling = SamplingParams(temperature=0, max_tokens=tokens, logprobs=2,
                              ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts],
                           sampling, use_tqdm=False, **request)
    result = []
    for output in outputs:
        (one,) = output.outputs
        result.append((list(one.token_ids),
                       [{token: value.logprob for token, value in step.items()}
                        for step in one.logprobs]))
    return result


def stop(llm):
    """Ends an engine and, with it, the parallel state of this process: one
    engine at a time."""
    core_of(llm).shutdown()


def bits_of(model):
    """{name: bytes} of all parameters and buffers, and their identities."""
    state = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False),
                         *model.named_buffers(remove_duplicate=False)]:
        state[name] = (id(tensor), tensor.data_ptr(), tuple(tensor.shape),
                       tensor.detach().clone().flatten().view(
                           dtype=torch.uint8))
    return state
