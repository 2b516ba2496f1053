// weft catalog: the metadata service.
#include <CLI/CLI.hpp>
#include <cstdlib>
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
#include "weft/catalog/redis/redis_store.h"

namespace weft::apps {
namespace {

struct CatalogArgs {
  std::string listen = kDefaultCatalog;
  std::string store = "memory";
  bool json = false;
};

void LogNote(const std::string& line) {
  base::Log(base::LogLevel::kWarning, line);
}

absl::StatusOr<std::unique_ptr<catalog::CatalogStore>> MakeStore(
    const std::string& store) {
  if (store == "memory") {
    return catalog::MakeMemoryStore({.on_note = LogNote});
  }
  if (store.rfind("redis://", 0) == 0) {
    const char* password = std::getenv("WEFT_REDIS_PASSWORD");
    return catalog::MakeRedisStore(
        store,
        {.password = password == nullptr ? "" : password, .on_note = LogNote});
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown store \"", store,
                   "\"; known are memory and redis://HOST[:PORT][/PREFIX]"));
}

int RunCatalog(const CatalogArgs& args) {
  const auto store = MakeStore(args.store);
  if (!store.ok()) return Fail("catalog", store.status(), args.json);
  auto server = catalog::CatalogServer::Start(args.listen, store->get());
  if (!server.ok()) return Fail("catalog", server.status(), args.json);
  const std::string host = args.listen.substr(0, args.listen.rfind(':'));
  const std::string address = absl::StrCat(host, ":", (*server)->port());
  if (args.json) {
    PrintLine(
        nlohmann::json({{"event", "listening"}, {"address", address}}).dump());
  } else {
    PrintLine(absl::StrCat("catalog listens on ", address,
                           " (store: ", args.store, "); stop with ctrl-c"));
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
  command->footer(
      "example: weft catalog --listen 0.0.0.0:6470 --store redis://db:6379\n"
      "WEFT_REDIS_PASSWORD holds the password of that Redis, if it has one");
  command
      ->add_option("--listen", args->listen,
                   "HOST:PORT; port 0 picks a free one and prints it")
      ->capture_default_str();
  command
      ->add_option("--store", args->store,
                   "where its state lives: memory, or redis://HOST[:PORT]"
                   "[/PREFIX], which several catalogs may share")
      ->capture_default_str();
  command->add_flag("--json", args->json, "print JSON lines");
  command->callback([args, exit_code] { *exit_code = RunCatalog(*args); });
}

}  // namespace weft::apps
