"""What vLLM stores for Llama, Qwen2 and Qwen3 at TP 1, from its documented
rules and not from capture: fused rows, padded vocabulary, ties."""


def expected(config, shapes):
    """{stored name: (shape, {logical name: first row}, zero rows)}; every
    fragment is a whole logical tensor as a block of rows."""
    stored = {}

    def add(name, parts, padded_to=None):
        rows = sum(shapes[p][0] for p in parts)
        at, places = 0, {}
        for part in parts:
            places[part] = at
            at += shapes[part][0]
        total = padded_to or rows
        stored[name] = ((total, *shapes[parts[0]][1:]), places,
                        (rows, total) if total > rows else None)

    vocabulary = -(-config["vocab_size"] // 64) * 64
    add("model.embed_tokens.weight", ["model.embed_tokens.weight"], vocabulary)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            qkv = [f"{at}self_attn.{x}_proj.{kind}" for x in "qkv"]
            if qkv[0] in shapes:
                add(f"{at}self_attn.qkv_proj.{kind}", qkv)
        add(at + "mlp.gate_up_proj.weight",
            [at + "mlp.gate_proj.weight", at + "mlp.up_proj.weight"])
        for same in ("self_attn.o_proj.weight", "mlp.down_proj.weight",
                     "input_layernorm.weight", "self_attn.q_norm.weight",
                     "self_attn.k_norm.weight",
                     "post_attention_layernorm.weight"):
            if at + same in shapes:
                add(at + same, [at + same])
    add("model.norm.weight", ["model.norm.weight"])
    if not config["tie_word_embeddings"]:
        add("lm_head.weight", ["lm_head.weight"], vocabulary)
    return stored


def assert_placed(placement, config, shapes):
    wanted = expected(config, shapes)
    assert {s.name for s in placement.stored} == set(wanted)
    for stored in placement.stored:
        shape, places, zeros = wanted[stored.name]
        assert stored.dtype == "BF16" and stored.shape == shape, stored.name
        row = 1
        for n in shape[1:]:
            row *= n
        found = {}
        for fragment in stored.fragments:
            logical = placement.tensors[fragment.tensor]
            assert logical.shape == shapes[logical.name]
            assert fragment.box == tuple((0, n) for n in logical.shape)
            rows = ((logical.shape[0], row),)
            columns = [((n, 1),) for n in logical.shape[1:]]
            assert fragment.modes == (rows, *columns), logical.name
            found[logical.name] = fragment.offset // row
            assert fragment.offset % row == 0
        assert found == places, stored.name
        padding = [] if zeros is None else [
            (zeros, *((0, n) for n in shape[1:]))]
        assert stored.zero_fill == padding, stored.name
