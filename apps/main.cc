// weft: one program for every part of a refit.
#include <CLI/CLI.hpp>
#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "chaos_rank.h"
#include "commands.h"
#include "console.h"
#include "one_ucx.h"
#include "open_files.h"
#include "version.h"

namespace {

std::string CommandOf(const CLI::App& app) {
  const auto called = app.get_subcommands();
  return called.empty() ? "" : called.front()->get_name();
}

}  // namespace

int main(int argc, char** argv) {
  // Before anything else, since it may start the program once more.
  const absl::Status one_ucx = weft::apps::KeepOneUcx(argc, argv);
  if (!one_ucx.ok()) return weft::apps::Fail("weft", one_ucx);
  weft::apps::RaiseOpenFileLimit();
  // What goes wrong is said once, by the command.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  // Debian builds Abseil for debugging: each lock that gRPC takes is entered
  // into one graph of all threads, under a lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  CLI::App app("Weft carries trained weights into live inference engines.",
               "weft");
  app.set_version_flag("--version", weft::apps::VersionText());
  app.require_subcommand(1);
  app.footer("first: weft demo          any command: weft COMMAND --help");
  int exit_code = 0;
  weft::apps::AddDemo(app, &exit_code);
  weft::apps::AddCatalog(app, &exit_code);
  weft::apps::AddPublish(app, &exit_code);
  weft::apps::AddPull(app, &exit_code);
  weft::apps::AddPlan(app, &exit_code);
  weft::apps::AddShard(app, &exit_code);
  weft::apps::AddVerify(app, &exit_code);
  weft::apps::AddSynth(app, &exit_code);
  weft::apps::AddBench(app, &exit_code);
  weft::apps::AddChaos(app, &exit_code);
  weft::apps::AddChaosRank(app, &exit_code);
  weft::apps::AddDoctor(app, &exit_code);
  weft::apps::AddSelftest(app, &exit_code);
  weft::apps::AddVersions(app, &exit_code);
  weft::apps::AddWorkers(app, &exit_code);
  weft::apps::AddSources(app, &exit_code);
  weft::apps::AddStatus(app, &exit_code);
  weft::apps::AddEvents(app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // CLI11 gives each kind of usage error a number of its own; ours is 2.
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::bad_alloc&) {
    return weft::apps::Fail(CommandOf(app),
                            absl::ResourceExhaustedError("out of memory"));
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::resource_unavailable_try_again) {
      return weft::apps::Fail(CommandOf(app),
                              absl::InternalError(error.what()));
    }
    return weft::apps::Fail(
        CommandOf(app),
        absl::ResourceExhaustedError(absl::StrCat(
            "no thread can be started: ", error.what(),
            "; look at the memory that is left, ulimit -u and ulimit -v")));
  } catch (const std::exception& error) {
    return weft::apps::Fail(CommandOf(app), absl::InternalError(error.what()));
  }
  const absl::Status printed = weft::apps::CheckPrinted();
  if (exit_code == 0 && !printed.ok()) {
    return weft::apps::Fail(CommandOf(app), printed);
  }
  return exit_code;
}
