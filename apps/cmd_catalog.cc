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
#include "weft/catalog/modelexpress/modelexpress_server.h"
#include "weft/catalog/redis/redis_store.h"

namespace weft::apps {
namespace {

struct CatalogArgs {
  std::string listen = kDefaultCatalog;
  std::string store = "memory";
  std::string modelexpress;  // empty: not served
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

std::string AddressOf(const std::string& listen, int port) {
  return absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port);
}

void PrintListening(const CatalogArgs& args, int port,
                    const catalog::ModelExpressServer* modelexpress) {
  const std::string address = AddressOf(args.listen, port);
  const std::string modelexpress_address =
      modelexpress == nullptr
          ? ""
          : AddressOf(args.modelexpress, modelexpress->port());
  if (args.json) {
    nlohmann::json event = {{"event", "listening"}, {"address", address}};
    if (modelexpress != nullptr) event["modelexpress"] = modelexpress_address;
    PrintLine(event.dump());
    return;
  }
  PrintLine(absl::StrCat("catalog listens on ", address,
                         " (store: ", args.store, "); stop with ctrl-c"));
  if (modelexpress == nullptr) return;
  PrintLine(absl::StrCat(
      "ModelExpress clients are answered on ", modelexpress_address,
      "; their sources and versions are held by this process and end with it",
      args.store == "memory" ? "" : ", they are not kept in Redis"));
}

int RunCatalog(const CatalogArgs& args) {
  const auto store = MakeStore(args.store);
  if (!store.ok()) return Fail("catalog", store.status(), args.json);
  auto server = catalog::CatalogServer::Start(args.listen, store->get());
  if (!server.ok()) return Fail("catalog", server.status(), args.json);
  std::unique_ptr<catalog::ModelExpressServer> modelexpress;
  if (!args.modelexpress.empty()) {
    auto started = catalog::ModelExpressServer::Start(args.modelexpress,
                                                      {.on_note = LogNote});
    if (!started.ok()) return Fail("catalog", started.status(), args.json);
    modelexpress = *std::move(started);
  }
  PrintListening(args, (*server)->port(), modelexpress.get());
  WaitForStopSignal();
  if (modelexpress != nullptr) modelexpress->Shutdown();
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
  command->add_option("--modelexpress", args->modelexpress,
                      "HOST:PORT where clients of NVIDIA ModelExpress 0.7 are "
                      "answered too; what they say is held in memory");
  command->add_flag("--json", args->json, "print JSON lines");
  command->callback([args, exit_code] { *exit_code = RunCatalog(*args); });
}

}  // namespace weft::apps
