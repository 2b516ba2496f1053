// weft catalog: the metadata service.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "catalog_http.h"
#include "catalog_metrics.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "event_feed.h"
#include "open_files.h"
#include "option_checks.h"
#include "weft/base/log.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/modelexpress/modelexpress_server.h"
#include "weft/catalog/redis/redis_store.h"

namespace weft::apps {
namespace {

constexpr int kDefaultHttpPort = 6471;
// Per client; a warm refit takes two.
constexpr double kDefaultCalls = 20'000;
// A fleet that one catalog is meant for has this many workers.
constexpr int64_t kFewFiles = 5'000;
// Where events are only counted, for who looks at the metrics.
constexpr std::chrono::milliseconds kCountEvery(50);

struct CatalogArgs {
  std::string listen = kDefaultCatalog;
  std::string store = "memory";
  std::string modelexpress;  // empty: not served
  std::string events;        // file; empty: none
  std::string http;          // HOST:PORT, "none", or empty for the default
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

std::string AddressOf(const std::string& listen, int port) {
  return absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port);
}

// "HOST:PORT" to serve HTTP on, as far as it is known; empty: nowhere. A
// catalog on a port of its own choice says where its HTTP shall be.
std::string HttpAddress(const CatalogArgs& args, const std::string& host) {
  if (args.http == "none") return "";
  if (!args.http.empty()) return args.http;
  const bool picks_port = args.listen == host + ":0";
  return picks_port ? "" : absl::StrCat(host, ":", kDefaultHttpPort);
}

// All of one server but the store; members end in reverse order.
struct Running {
  CatalogMetrics metrics;
  std::unique_ptr<EventFile> file;
  std::unique_ptr<EventFeed> feed;
  std::unique_ptr<catalog::CatalogServer> server;
  std::unique_ptr<CatalogHttp> http;
  std::unique_ptr<catalog::ModelExpressServer> modelexpress;  // or null
};

absl::Status StartAll(const CatalogArgs& args, const std::string& host,
                      catalog::CatalogStore* store, Running& running) {
  if (!args.events.empty()) {
    WEFT_ASSIGN_OR_RETURN(running.file, EventFile::Open(args.events));
  }
  catalog::CatalogServerOptions options = args.server;
  options.observer = &running.metrics;
  WEFT_ASSIGN_OR_RETURN(running.server, catalog::CatalogServer::Start(
                                            args.listen, store, options));
  if (const std::string address = HttpAddress(args, host); !address.empty()) {
    auto http = CatalogHttp::Start(address, store, &running.metrics);
    if (http.ok()) {
      running.http = *std::move(http);
    } else if (!args.http.empty()) {
      return http.status();
    } else {
      LogNote(absl::StrCat(std::string(http.status().message()),
                           "; choose with --http, or none"));
    }
  }
  const EventFile* file = running.file.get();
  running.feed = std::make_unique<EventFeed>(
      store, file == nullptr ? 0 : file->log_id(),
      file == nullptr ? 0 : file->last_number(),
      file == nullptr ? kCountEvery : std::chrono::milliseconds(0),
      [&running](const catalog::EventPage& page) {
        running.metrics.OnEvents(page);
        if (running.file != nullptr) running.file->Append(page);
      });
  if (args.modelexpress.empty()) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(running.modelexpress,
                        catalog::ModelExpressServer::Start(
                            args.modelexpress, {.on_note = LogNote}));
  return absl::OkStatus();
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
      ->check(NotBelowZero())
      ->group(group);
  command.add_option("--max-watches", server.max_watches, "watches at a time")
      ->capture_default_str()
      ->check(NotBelowZero())
      ->group(group);
  command
      .add_option("--max-message-bytes", server.max_message_bytes,
                  "of one request; a placement and a binding are one each")
      ->capture_default_str()
      ->group(group);
}

void PrintListening(const CatalogArgs& args, const Running& running) {
  const std::string address = AddressOf(args.listen, running.server->port());
  const std::string http =
      running.http == nullptr ? "" : running.http->address();
  const std::string modelexpress =
      running.modelexpress == nullptr
          ? ""
          : AddressOf(args.modelexpress, running.modelexpress->port());
  if (args.json) {
    nlohmann::json event = {
        {"event", "listening"}, {"address", address}, {"http", http}};
    if (!modelexpress.empty()) event["modelexpress"] = modelexpress;
    PrintLine(event.dump());
    return;
  }
  PrintLine(absl::StrCat(
      "catalog listens on ", address, " (store: ", args.store, ", ",
      DescribeAccess(args.server), ")", http.empty() ? "" : ", HTTP on ", http,
      "; stop with ctrl-c"));
  if (modelexpress.empty()) return;
  PrintLine(absl::StrCat(
      "ModelExpress clients are answered on ", modelexpress,
      "; their sources and versions are held by this process and end with it",
      args.store == "memory" ? "" : ", they are not kept in Redis"));
}

int RunCatalog(const CatalogArgs& args) {
  const auto store = MakeStore(args.store);
  if (!store.ok()) return Fail("catalog", store.status(), args.json);
  const std::string host = args.listen.substr(0, args.listen.rfind(':'));
  Running running;
  const absl::Status started = StartAll(args, host, store->get(), running);
  if (!started.ok()) return Fail("catalog", started, args.json);
  PrintListening(args, running);
  if (const int64_t files = OpenFileLimit(); files < kFewFiles) {
    base::Log(base::LogLevel::kWarning,
              absl::StrCat("this process may open ", files,
                           " files, and each worker is one: raise ulimit -n "
                           "before that many come"));
  }
  WaitForStopSignal();
  running.modelexpress.reset();
  running.http.reset();
  // The events of its end are written too.
  running.server->Shutdown();
  running.feed.reset();
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
  command->add_option("--http", args->http,
                      "HOST:PORT for /metrics, /healthz, /readyz and /status, "
                      "or none; 6471 beside --listen if not given (none beside "
                      "port 0)");
  command->add_option("--events", args->events,
                      "file that gets each event as a line of JSON");
  args->server.gate.calls_per_second = kDefaultCalls;
  args->server.gate.on_note = LogNote;
  AddServerOptions(*command, args->server);
  command->add_flag("--json", args->json, "print JSON lines");
  command->callback([args, exit_code] {
    BlockStopSignals();
    *exit_code = RunCatalog(*args);
  });
}

}  // namespace weft::apps
