// For tests: what each framework holds, element by element, by the plain
// formulas of the frameworks. Shares nothing with the recipes or with room
// layout: no boxes, no tables, one function from (row, column) to its origin.
#ifndef WEFT_RECIPE_TESTING_ORACLE_H_
#define WEFT_RECIPE_TESTING_ORACLE_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/recipe/testing/model.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {

struct OracleTensor {
  std::string name;
  int64_t rows = 0;
  int64_t columns = -1;  // -1: rank 1
  // Requires row < rows, column < columns (column is -1 for rank 1).
  std::function<Origin(int64_t row, int64_t column)> origin;
};

// What a test wants to know of a model family.
struct Features {
  bool qkv_bias, o_bias, mlp_bias, qk_norm;
};

inline Features FeaturesOf(const Model& model) {
  if (model.architecture == "Qwen2ForCausalLM") {
    return {true, false, false, false};
  }
  if (model.architecture == "Qwen3ForCausalLM") {
    return {false, false, false, true};
  }
  return {model.attention_bias, model.attention_bias, model.mlp_bias, false};
}

inline std::string LayerName(int64_t layer, const std::string& rest) {
  return absl::StrCat("model.layers.", layer, ".", rest);
}

// [begin, end) of torch.chunk.
inline std::pair<int64_t, int64_t> Chunk(int64_t n, int64_t k, int64_t r) {
  const int64_t c = (n + k - 1) / k;
  return {std::min(n, r * c), std::min(n, (r + 1) * c)};
}

class OracleList {
 public:
  // The tensor `of`, whole.
  void Whole(const std::string& name, const std::string& of, int64_t rows,
             int64_t columns = -1) {
    list_.push_back({name, rows, columns, [of](int64_t i, int64_t j) {
                       return Origin{of, i, j};
                     }});
  }
  // Columns from `begin` on.
  void Columns(const std::string& name, const std::string& of, int64_t rows,
               int64_t columns, int64_t begin) {
    list_.push_back({name, rows, columns, [of, begin](int64_t i, int64_t j) {
                       return Origin{of, i, begin + j};
                     }});
  }
  // Rows from `begin` on, zeros past row `end` of the table.
  void Vocabulary(const std::string& name, const std::string& of, int64_t rows,
                  int64_t columns, int64_t begin, int64_t end) {
    list_.push_back(
        {name, rows, columns, [of, begin, end](int64_t i, int64_t j) {
           return begin + i < end ? Origin{of, begin + i, j} : Zero();
         }});
  }
  void Add(OracleTensor tensor) { list_.push_back(std::move(tensor)); }
  std::vector<OracleTensor> Take() { return std::move(list_); }

 private:
  std::vector<OracleTensor> list_;
};

struct MegatronDegrees {
  int64_t tp = 1, pp = 1, cp = 1, dp = 1, vocab_divisor = 0;
  bool local = false;
};

// Origin of row `m` of the whole merged linear_qkv, for weight or bias.
inline Origin MergedQkvOrigin(const Model& model, int64_t layer,
                              const std::string& kind, int64_t m, int64_t j) {
  const int64_t n = model.Hq / model.G;
  const int64_t u = m / model.D, d = m % model.D;
  const int64_t g = u / (n + 2), s = u % (n + 2);
  if (s < n) {
    return {LayerName(layer, "self_attn.q_proj." + kind),
            (g * n + s) * model.D + d, j};
  }
  return {
      LayerName(layer,
                (s == n ? "self_attn.k_proj." : "self_attn.v_proj.") + kind),
      g * model.D + d, j};
}

inline void AddMegatronLayer(const Model& model, const MegatronDegrees& at,
                             int64_t tp_rank, int64_t layer,
                             const std::string& prefix, OracleList& list) {
  const Features has = FeaturesOf(model);
  const auto hf = [&](const std::string& rest) {
    return LayerName(layer, rest);
  };
  const int64_t qkv_rows = (model.Hq + 2 * model.G) * model.D / at.tp;
  const int64_t half = model.I / at.tp;
  const auto qkv = [=, &model](const std::string& kind) {
    const Model m = model;
    return [m, layer, kind, tp_rank, qkv_rows](int64_t i, int64_t j) {
      return MergedQkvOrigin(m, layer, kind, tp_rank * qkv_rows + i, j);
    };
  };
  const auto fc1 = [=](const std::string& kind) {
    return [=](int64_t i, int64_t j) {
      const std::string which = i < half ? "mlp.gate_proj." : "mlp.up_proj.";
      return Origin{LayerName(layer, which + kind), tp_rank * half + i % half,
                    j};
    };
  };
  if (at.local) {
    list.Whole(prefix + "input_layernorm.weight", hf("input_layernorm.weight"),
               model.H);
  }
  const int64_t o_columns = model.Hq * model.D / at.tp;
  list.Columns(prefix + "self_attention.linear_proj.weight",
               hf("self_attn.o_proj.weight"), model.H, o_columns,
               tp_rank * o_columns);
  if (has.o_bias) {
    list.Whole(prefix + "self_attention.linear_proj.bias",
               hf("self_attn.o_proj.bias"), model.H);
  }
  if (!at.local) {
    list.Whole(prefix + "self_attention.linear_qkv.layer_norm_weight",
               hf("input_layernorm.weight"), model.H);
  }
  list.Add({prefix + "self_attention.linear_qkv.weight", qkv_rows, model.H,
            qkv("weight")});
  if (has.qkv_bias) {
    list.Add(
        {prefix + "self_attention.linear_qkv.bias", qkv_rows, -1, qkv("bias")});
  }
  if (has.qk_norm) {
    list.Whole(prefix + "self_attention.q_layernorm.weight",
               hf("self_attn.q_norm.weight"), model.D);
    list.Whole(prefix + "self_attention.k_layernorm.weight",
               hf("self_attn.k_norm.weight"), model.D);
  }
  list.Whole(prefix + (at.local ? "pre_mlp_layernorm.weight"
                                : "mlp.linear_fc1.layer_norm_weight"),
             hf("post_attention_layernorm.weight"), model.H);
  list.Add(
      {prefix + "mlp.linear_fc1.weight", 2 * half, model.H, fc1("weight")});
  if (has.mlp_bias) {
    list.Add({prefix + "mlp.linear_fc1.bias", 2 * half, -1, fc1("bias")});
  }
  list.Columns(prefix + "mlp.linear_fc2.weight", hf("mlp.down_proj.weight"),
               model.H, half, tp_rank * half);
  if (has.mlp_bias) {
    list.Whole(prefix + "mlp.linear_fc2.bias", hf("mlp.down_proj.bias"),
               model.H);
  }
}

// Even pipeline stages; pp divides the layers.
inline std::vector<OracleTensor> MegatronOracle(const Model& model,
                                                const MegatronDegrees& at,
                                                int64_t rank) {
  const int64_t tp_rank = rank % at.tp;
  const int64_t stage = rank / (at.tp * at.cp * at.dp);
  const int64_t step = at.vocab_divisor * at.tp;
  const int64_t padded =
      step == 0 ? model.V : (model.V + step - 1) / step * step;
  const int64_t share = padded / at.tp;
  OracleList list;
  if (stage == 0) {
    list.Vocabulary("embedding.word_embeddings.weight",
                    "model.embed_tokens.weight", share, model.H,
                    tp_rank * share, model.V);
  }
  const int64_t per = model.L / at.pp;
  for (int64_t l = 0; l < per; ++l) {
    AddMegatronLayer(model, at, tp_rank, stage * per + l,
                     absl::StrCat("decoder.layers.", l, "."), list);
  }
  if (stage == at.pp - 1) {
    list.Whole("decoder.final_layernorm.weight", "model.norm.weight", model.H);
    if (!model.tied || at.pp > 1) {
      list.Vocabulary(
          "output_layer.weight",
          model.tied ? "model.embed_tokens.weight" : "lm_head.weight", share,
          model.H, tp_rank * share, model.V);
    }
  }
  return list.Take();
}

struct VllmDegrees {
  int64_t tp = 1, pp = 1, dp = 1;
};

// Layers of each stage, as the engine's Python counts them.
inline std::vector<int64_t> VllmPartitions(int64_t num_layers, int64_t pp) {
  std::vector<int64_t> partitions(pp, num_layers / pp);
  const int64_t remaining = num_layers % pp;
  for (int64_t i = 2; i < remaining + 2; ++i) ++partitions[pp - i];
  return partitions;
}

inline void AddVllmLayer(const Model& model, int64_t tp, int64_t tp_rank,
                         int64_t layer, OracleList& list) {
  const Features has = FeaturesOf(model);
  const auto at = [&](const std::string& rest) {
    return LayerName(layer, rest);
  };
  const int64_t D = model.D;
  const int64_t q_rows = model.Hq / tp * D;
  const bool replicated = tp >= model.G;
  const int64_t kv_rows = (replicated ? 1 : model.G / tp) * D;
  const int64_t kv_share = tp_rank / (replicated ? tp / model.G : 1);
  const int64_t half = model.I / tp;
  const auto qkv = [=](const std::string& kind) {
    return [=](int64_t i, int64_t j) -> Origin {
      if (i < q_rows) {
        return {LayerName(layer, "self_attn.q_proj." + kind),
                tp_rank * q_rows + i, j};
      }
      if (i < q_rows + kv_rows) {
        return {LayerName(layer, "self_attn.k_proj." + kind),
                kv_share * kv_rows + i - q_rows, j};
      }
      return {LayerName(layer, "self_attn.v_proj." + kind),
              kv_share * kv_rows + i - q_rows - kv_rows, j};
    };
  };
  const auto gate_up = [=](const std::string& kind) {
    return [=](int64_t i, int64_t j) {
      const int64_t s = i / half;
      const std::string which = s == 0 ? "mlp.gate_proj." : "mlp.up_proj.";
      return Origin{LayerName(layer, which + kind), tp_rank * half + i % half,
                    j};
    };
  };
  list.Add({at("self_attn.qkv_proj.weight"), q_rows + 2 * kv_rows, model.H,
            qkv("weight")});
  if (has.qkv_bias) {
    list.Add(
        {at("self_attn.qkv_proj.bias"), q_rows + 2 * kv_rows, -1, qkv("bias")});
  }
  list.Columns(at("self_attn.o_proj.weight"), at("self_attn.o_proj.weight"),
               model.H, q_rows, tp_rank * q_rows);
  if (has.o_bias) {
    list.Whole(at("self_attn.o_proj.bias"), at("self_attn.o_proj.bias"),
               model.H);
  }
  if (has.qk_norm) {
    list.Whole(at("self_attn.q_norm.weight"), at("self_attn.q_norm.weight"), D);
    list.Whole(at("self_attn.k_norm.weight"), at("self_attn.k_norm.weight"), D);
  }
  list.Add(
      {at("mlp.gate_up_proj.weight"), 2 * half, model.H, gate_up("weight")});
  if (has.mlp_bias) {
    list.Add({at("mlp.gate_up_proj.bias"), 2 * half, -1, gate_up("bias")});
  }
  list.Columns(at("mlp.down_proj.weight"), at("mlp.down_proj.weight"), model.H,
               half, tp_rank * half);
  if (has.mlp_bias) {
    list.Whole(at("mlp.down_proj.bias"), at("mlp.down_proj.bias"), model.H);
  }
  for (const char* norm :
       {"input_layernorm.weight", "post_attention_layernorm.weight"}) {
    list.Whole(at(norm), at(norm), model.H);
  }
}

inline std::vector<OracleTensor> VllmOracle(const Model& model,
                                            const VllmDegrees& degrees,
                                            int64_t rank) {
  const int64_t tp_rank = rank % degrees.tp;
  const int64_t stage = rank / degrees.tp % degrees.pp;
  const bool is_last = stage == degrees.pp - 1;
  const int64_t share = (model.V + 63) / 64 * 64 / degrees.tp;
  OracleList list;
  if (stage == 0 || (model.tied && is_last)) {
    list.Vocabulary("model.embed_tokens.weight", "model.embed_tokens.weight",
                    share, model.H, tp_rank * share, model.V);
  }
  const std::vector<int64_t> counts = VllmPartitions(model.L, degrees.pp);
  int64_t layer = 0;
  for (int64_t s = 0; s < stage; ++s) layer += counts[s];
  for (int64_t l = 0; l < counts[stage]; ++l) {
    AddVllmLayer(model, degrees.tp, tp_rank, layer + l, list);
  }
  if (is_last) list.Whole("model.norm.weight", "model.norm.weight", model.H);
  if (is_last && !model.tied) {
    list.Vocabulary("lm_head.weight", "lm_head.weight", share, model.H,
                    tp_rank * share, model.V);
  }
  return list.Take();
}

// One tensor of the checkpoint; `tp`: 'r' rows cut, 'c' columns cut, '-' none.
struct CheckpointTensor {
  std::string name;
  int64_t rows;
  int64_t columns;
  char tp;
};

inline std::vector<CheckpointTensor> CheckpointOf(const Model& model) {
  const Features has = FeaturesOf(model);
  const int64_t q = model.Hq * model.D, kv = model.G * model.D;
  std::vector<CheckpointTensor> list;
  list.push_back({"model.embed_tokens.weight", model.V, model.H, 'r'});
  for (int64_t l = 0; l < model.L; ++l) {
    const auto linear = [&](const std::string& name, int64_t rows,
                            int64_t columns, char tp, bool bias) {
      list.push_back({LayerName(l, name + ".weight"), rows, columns, tp});
      if (bias) {
        list.push_back(
            {LayerName(l, name + ".bias"), rows, -1, tp == 'r' ? 'r' : '-'});
      }
    };
    linear("self_attn.q_proj", q, model.H, 'r', has.qkv_bias);
    linear("self_attn.k_proj", kv, model.H, 'r', has.qkv_bias);
    linear("self_attn.v_proj", kv, model.H, 'r', has.qkv_bias);
    linear("self_attn.o_proj", model.H, q, 'c', has.o_bias);
    if (has.qk_norm) {
      list.push_back(
          {LayerName(l, "self_attn.q_norm.weight"), model.D, -1, '-'});
      list.push_back(
          {LayerName(l, "self_attn.k_norm.weight"), model.D, -1, '-'});
    }
    linear("mlp.gate_proj", model.I, model.H, 'r', has.mlp_bias);
    linear("mlp.up_proj", model.I, model.H, 'r', has.mlp_bias);
    linear("mlp.down_proj", model.H, model.I, 'c', has.mlp_bias);
    list.push_back({LayerName(l, "input_layernorm.weight"), model.H, -1, '-'});
    list.push_back(
        {LayerName(l, "post_attention_layernorm.weight"), model.H, -1, '-'});
  }
  list.push_back({"model.norm.weight", model.H, -1, '-'});
  if (!model.tied) list.push_back({"lm_head.weight", model.V, model.H, 'r'});
  return list;
}

struct FsdpDegrees {
  int64_t shard = 1, replicate = 1, tp = 1;
};

inline std::vector<OracleTensor> FsdpOracle(const Model& model,
                                            const FsdpDegrees& degrees,
                                            int64_t rank) {
  const int64_t tp_rank = rank % degrees.tp;
  const int64_t shard_rank = rank / degrees.tp % degrees.shard;
  std::vector<OracleTensor> list;
  for (const CheckpointTensor& one : CheckpointOf(model)) {
    int64_t row = 0, rows = one.rows, column = 0, columns = one.columns;
    if (one.tp == 'r') {
      const auto [begin, end] = Chunk(one.rows, degrees.tp, tp_rank);
      row = begin;
      rows = end - begin;
    } else if (one.tp == 'c') {
      const auto [begin, end] = Chunk(one.columns, degrees.tp, tp_rank);
      column = begin;
      columns = end - begin;
    }
    const auto [begin, end] = Chunk(rows, degrees.shard, shard_rank);
    row += begin;
    rows = end - begin;
    const std::string name = one.name;
    list.push_back({name, rows, columns, [=](int64_t i, int64_t j) {
                      return Origin{name, row + i, j < 0 ? -1 : column + j};
                    }});
  }
  return list;
}

}  // namespace weft::recipe::testing

#endif  // WEFT_RECIPE_TESTING_ORACLE_H_
