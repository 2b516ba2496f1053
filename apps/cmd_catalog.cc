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

// Per client; a warm refit takes two.
constexpr double kDefaultCalls = 20'000;

struct CatalogArgs {
  std::string listen = kDefaultCatalog;
  std::string store = "memory";
  catalog::CatalogServerOptions server;
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

std::string DescribeAccess(const catalog::CatalogServerOptions& server) {
  const char* tls = !server.tls.enabled() ? "no TLS"
                    : server.tls.client_ca_file.empty()
                        ? "TLS"
                        : "TLS with certificates of clients";
  return absl::StrCat(
      tls, server.gate.token_file.empty() ? ", no tokens" : ", tokens");
}

void AddServerOptions(CLI::App& command,
                      catalog::CatalogServerOptions& server) {
  const std::string group = "Security (docs/security.md)";
  command
      .add_option("--tls-cert", server.tls.cert_file,
                  "speak TLS; PEM file of the catalog's certificate")
      ->group(group);
  command
      .add_option("--tls-key", server.tls.key_file,
                  "PEM file of its private key")
      ->group(group);
  command
      .add_option("--tls-client-ca", server.tls.client_ca_file,
                  "PEM file of the authorities of which clients must show a "
                  "certificate")
      ->group(group);
  command
      .add_option("--tokens", server.gate.token_file,
                  "file of bearer tokens and their roles; read again when it "
                  "changes")
      ->group(group);
  command
      .add_flag("--insecure-tokens", server.insecure_tokens,
                "take tokens even without TLS")
      ->group(group);
  command
      .add_option("--audit", server.gate.audit_file,
                  "file that gets a JSON line for each call that changes "
                  "something or is refused")
      ->group(group);
  command
      .add_option("--max-calls", server.gate.calls_per_second,
                  "calls a second of one client, by token or else by host; 0: "
                  "as many as it likes")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  command.add_option("--max-watches", server.max_watches, "watches at a time")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  command
      .add_option("--max-message-bytes", server.max_message_bytes,
                  "of one request; a placement and a binding are one each")
      ->capture_default_str()
      ->group(group);
}

int RunCatalog(const CatalogArgs& args) {
  const auto store = MakeStore(args.store);
  if (!store.ok()) return Fail("catalog", store.status(), args.json);
  auto server =
      catalog::CatalogServer::Start(args.listen, store->get(), args.server);
  if (!server.ok()) return Fail("catalog", server.status(), args.json);
  const std::string host = args.listen.substr(0, args.listen.rfind(':'));
  const std::string address = absl::StrCat(host, ":", (*server)->port());
  if (args.json) {
    PrintLine(
        nlohmann::json({{"event", "listening"}, {"address", address}}).dump());
  } else {
    PrintLine(absl::StrCat("catalog listens on ", address,
                           " (store: ", args.store, ", ",
                           DescribeAccess(args.server), "); stop with ctrl-c"));
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
  args->server.gate.calls_per_second = kDefaultCalls;
  args->server.gate.on_note = LogNote;
  AddServerOptions(*command, args->server);
  command->add_flag("--json", args->json, "print JSON lines");
  command->callback([args, exit_code] { *exit_code = RunCatalog(*args); });
}

}  // namespace weft::apps
