// One rank of `weft chaos`, a process of its own: `weft chaos-rank`.
#ifndef WEFT_APPS_CHAOS_RANK_H_
#define WEFT_APPS_CHAOS_RANK_H_

namespace CLI {
class App;
}

namespace weft::apps {

inline constexpr char kChaosModel[] = "chaos";
// What one call of a rank may take; the fleet adds a margin before it calls a
// rank hung.
inline constexpr double kRefitSeconds = 1.5;
inline constexpr double kRevokeSeconds = 0.25;
inline constexpr double kPublishSeconds = 2;
inline constexpr double kCreateSeconds = 10;

// Hidden. It says what it did in JSON lines: "up", "published", "committed",
// "failed", "parked".
void AddChaosRank(CLI::App& app, int* exit_code);

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_RANK_H_
