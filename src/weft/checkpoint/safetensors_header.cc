#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/checkpoint/strict_json_internal.h"

namespace weft::checkpoint {
namespace {

using nlohmann::json;

constexpr int64_t kLengthBytes = 8;
// Root object, tensor object, array of numbers.
constexpr int kHeaderDepth = 3;

// A JSON number that is an integer in [0, 2^63), else nullopt.
std::optional<int64_t> AsCount(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return std::nullopt;
  }
  return static_cast<int64_t>(number);
}

// A field for a message: a hostile one may be as long as the header.
std::string Shown(const json& field) {
  constexpr std::size_t kMaxShown = 80;
  const std::string text = field.dump();
  if (text.size() <= kMaxShown) return text;
  return absl::StrCat(text.substr(0, kMaxShown), "...");
}

std::string Quoted(const std::string& name) {
  return absl::StrCat("tensor \"", name, "\"");
}

// Fills `shape`; false (with a fault) if the field is no list of counts.
bool ReadShape(const json& field, const std::string& name, tensor::Shape& shape,
               base::FaultList& faults) {
  bool good = field.is_array();
  if (good) {
    for (const json& extent : field) {
      const std::optional<int64_t> count = AsCount(extent);
      good = good && count.has_value();
      shape.push_back(count.value_or(0));
    }
  }
  if (!good) {
    faults.Add(absl::StrCat(Quoted(name), " has the shape ", Shown(field),
                            ", which is no list of non-negative 64-bit "
                            "integers"));
  }
  return good;
}

bool ReadOffsets(const json& field, TensorEntry& entry,
                 base::FaultList& faults) {
  if (field.is_array() && field.size() == 2) {
    const std::optional<int64_t> begin = AsCount(field[0]);
    const std::optional<int64_t> end = AsCount(field[1]);
    if (begin.has_value() && end.has_value() && *begin <= *end) {
      entry.begin_bytes = *begin;
      entry.end_bytes = *end;
      return true;
    }
  }
  faults.Add(absl::StrCat(Quoted(entry.spec.name), " has the data_offsets ",
                          Shown(field),
                          ", which is no pair of integers begin <= end"));
  return false;
}

// Offsets and dtype x shape must describe the same number of bytes.
void CheckBytes(const TensorEntry& entry, base::FaultList& faults) {
  std::optional<int64_t> bytes = tensor::ItemBytes(entry.spec.dtype);
  for (const int64_t extent : entry.spec.shape) {
    if (bytes.has_value()) bytes = base::CheckedMul(*bytes, extent);
  }
  const std::string what =
      absl::StrCat(Quoted(entry.spec.name), " of dtype ",
                   std::string(tensor::DTypeName(entry.spec.dtype)),
                   " and shape ", tensor::ShapeToString(entry.spec.shape));
  if (!bytes.has_value()) {
    faults.Add(absl::StrCat(what, " has more bytes than 64 bits can count"));
  } else if (*bytes != entry.end_bytes - entry.begin_bytes) {
    faults.Add(absl::StrCat(what, " needs ", *bytes,
                            " bytes, but its data_offsets [", entry.begin_bytes,
                            ",", entry.end_bytes, ") give ",
                            entry.end_bytes - entry.begin_bytes));
  }
}

// One member of the root object; nullopt when faults were added.
std::optional<TensorEntry> ReadEntry(const std::string& name,
                                     const json& fields,
                                     base::FaultList& faults) {
  if (!fields.is_object()) {
    faults.Add(absl::StrCat(Quoted(name), " is described by no object"));
    return std::nullopt;
  }
  const std::size_t faults_before = faults.count();
  TensorEntry entry;
  entry.spec.name = name;
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!fields.contains(key)) {
      faults.Add(absl::StrCat(Quoted(name), " lacks the field ", key));
    }
  }
  for (const auto& [key, field] : fields.items()) {
    if (key == "dtype") {
      const std::string text =
          field.is_string() ? field.get<std::string>() : Shown(field);
      const std::optional<tensor::DType> dtype = tensor::ParseDType(text);
      if (!dtype.has_value()) {
        faults.Add(absl::StrCat(Quoted(name), " has the unknown dtype ", text));
      }
      entry.spec.dtype = dtype.value_or(tensor::DType::kU8);
    } else if (key == "shape") {
      ReadShape(field, name, entry.spec.shape, faults);
    } else if (key == "data_offsets") {
      ReadOffsets(field, entry, faults);
    } else {
      faults.Add(absl::StrCat(Quoted(name), " has the unknown field ", key));
    }
  }
  if (faults.count() != faults_before) return std::nullopt;
  CheckBytes(entry, faults);
  return entry;
}

void ReadMetadata(const json& fields, std::map<std::string, std::string>& out,
                  base::FaultList& faults) {
  if (!fields.is_object()) {
    faults.Add("__metadata__ is no object of strings");
    return;
  }
  for (const auto& [key, value] : fields.items()) {
    if (value.is_string()) {
      out[key] = value.get<std::string>();
    } else {
      faults.Add(absl::StrCat("__metadata__ key ", key, " is no string"));
    }
  }
}

// Requires `tensors` sorted by offset. Returns the end of the last tensor.
int64_t CheckTensorsTile(const std::vector<TensorEntry>& tensors,
                         base::FaultList& faults) {
  int64_t end_bytes = 0;
  const TensorEntry* last = nullptr;
  for (const TensorEntry& entry : tensors) {
    if (entry.begin_bytes < end_bytes) {
      faults.Add(absl::StrCat(Quoted(entry.spec.name), " at bytes [",
                              entry.begin_bytes, ",", entry.end_bytes,
                              ") overlaps ", Quoted(last->spec.name),
                              ", which ends at ", end_bytes));
    } else if (entry.begin_bytes > end_bytes) {
      faults.Add(absl::StrCat("bytes [", end_bytes, ",", entry.begin_bytes,
                              ") before ", Quoted(entry.spec.name),
                              " belong to no tensor"));
    }
    if (entry.end_bytes >= end_bytes) {
      end_bytes = entry.end_bytes;
      last = &entry;
    }
  }
  return end_bytes;
}

absl::StatusOr<int64_t> ReadHeaderBytes(std::string_view head,
                                        int64_t file_bytes) {
  if (file_bytes < kLengthBytes || head.size() < kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat("file of ", file_bytes,
                     " bytes is shorter than the 8-byte header length"));
  }
  const uint64_t length = base::ByteReader(head.substr(0, kLengthBytes)).U64();
  const uint64_t available = static_cast<uint64_t>(file_bytes - kLengthBytes);
  if (length > available) {
    return absl::DataLossError(
        absl::StrCat("header of ", length,
                     " bytes goes beyond the file, which has ", available,
                     " bytes after the header length; the file is truncated or "
                     "no safetensors file"));
  }
  if (length > static_cast<uint64_t>(kMaxHeaderBytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", length,
                     " bytes is larger than the limit of ", kMaxHeaderBytes));
  }
  if (head.size() - kLengthBytes < length) {
    return absl::InvalidArgumentError(
        absl::StrCat("only ", head.size() - kLengthBytes, " of ", length,
                     " header bytes were given"));
  }
  return static_cast<int64_t>(length);
}

}  // namespace

absl::StatusOr<ParsedHeader> ParseSafetensorsHeader(std::string_view head,
                                                    int64_t file_bytes) {
  WEFT_ASSIGN_OR_RETURN(const int64_t header_bytes,
                        ReadHeaderBytes(head, file_bytes));
  const std::string_view text =
      head.substr(kLengthBytes, static_cast<std::size_t>(header_bytes));
  // The format says '{' first: a reader may rely on it to tell the format.
  if (text.empty() || text.front() != '{') {
    return absl::InvalidArgumentError(
        "header is no JSON object (its first byte is not '{')");
  }
  absl::StatusOr<json> root = ParseStrictJson(text, kHeaderDepth);
  if (!root.ok()) return base::Annotate(root.status(), "header");

  ParsedHeader header;
  header.data_begin_bytes = kLengthBytes + header_bytes;
  base::FaultList faults;
  bool all_read = true;
  for (const auto& [name, fields] : root->items()) {
    if (name == "__metadata__") {
      ReadMetadata(fields, header.metadata, faults);
      continue;
    }
    std::optional<TensorEntry> entry = ReadEntry(name, fields, faults);
    all_read = all_read && entry.has_value();
    if (entry.has_value()) header.tensors.push_back(*std::move(entry));
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorEntry& a, const TensorEntry& b) {
              return std::tie(a.begin_bytes, a.end_bytes, a.spec.name) <
                     std::tie(b.begin_bytes, b.end_bytes, b.spec.name);
            });
  const int64_t data_bytes = file_bytes - header.data_begin_bytes;
  // Without the tensors that could not be read, holes would mean nothing.
  if (all_read) {
    const int64_t end_bytes = CheckTensorsTile(header.tensors, faults);
    if (end_bytes > data_bytes) {
      const std::string fault = absl::StrCat("tensors take ", end_bytes,
                                             " data bytes, but the file has ",
                                             data_bytes, " after its header");
      if (faults.empty()) {
        return absl::DataLossError(absl::StrCat("file is truncated: ", fault));
      }
      faults.Add(fault);
    } else if (end_bytes < data_bytes) {
      faults.Add(absl::StrCat("bytes [", end_bytes, ",", data_bytes,
                              ") at the end of the data belong to no tensor"));
    }
  }
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  return header;
}

}  // namespace weft::checkpoint
