// weft catalog: the metadata service.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "weft/base/log.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/memory/memory_store.h"

namespace weft::apps {
namespace {

struct CatalogArgs {
  std::string listen = kDefaultCatalog;
  std::string store = "memory";
  bool json = false;
};

int RunCatalog(const CatalogArgs& args) {
  if (args.store != "memory") {
    return Fail("catalog", absl::UnimplementedError(
                               absl::StrCat("unknown store \"", args.store,
                                            "\"; this release has: memory")));
  }
  const std::unique_ptr<catalog::CatalogStore> store =
      catalog::MakeMemoryStore({});
  auto server = catalog::CatalogServer::Start(args.listen, store.get());
  if (!server.ok()) return Fail("catalog", server.status(), args.json);
  const std::string host = args.listen.substr(0, args.listen.rfind(':'));
  const std::string address = absl::StrCat(host, ":", (*server)->port());
  if (args.json) {
    PrintLine(
        nlohmann::json({{"event", "listening"}, {"address", address}}).dump());
  } else {
    PrintLine(absl::StrCat("catalog listens on ", address,
                           " (store: memory); stop with ctrl-c"));
  }
  WaitForStopSignal();
  (*server)->Shutdown();
  return 0;
}

}  // namespace

void AddCatalog(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<CatalogArgs>();
  CLI::App* command = app.add_subcommand(
      "catalog", "Run the metadata service that both sides find each other by");
  command->footer("example: weft catalog --listen 0.0.0.0:6470");
  command
      ->add_option("--listen", args->listen,
                   "HOST:PORT; port 0 picks a free one and prints it")
      ->capture_default_str();
  command->add_option("--store", args->store, "where its state lives: memory")
      ->capture_default_str();
  command->add_flag("--json", args->json, "print JSON lines");
  command->callback([args, exit_code] { *exit_code = RunCatalog(*args); });
}

}  // namespace weft::apps
