// libFuzzer target: what people write, and what comes with a checkpoint: layout
// specs, config.json, recipes.
//
// Whatever the text, parsing ends in a status or in a value.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "weft/recipe/layout_spec.h"
#include "weft/recipe/model_config.h"
#include "weft/recipe/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1,
                              size - 1);
  switch (data[0] % 3) {
    case 0:
      // It reads the file that this names.
      if (text.find("eplb") == std::string_view::npos) {
        (void)weft::recipe::ParseLayoutSpec(text);
      }
      break;
    case 1:
      (void)weft::recipe::ParseModelConfig(text);
      break;
    default:
      (void)weft::recipe::ParseRecipe(text, "fuzz.yaml");
  }
  return 0;
}
