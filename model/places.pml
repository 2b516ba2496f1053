/* What model/refit.pml leaves out (decision 0019): leases that expire and are
 * renewed, and places in the catalog that are lost and taken again. TRAINERS
 * trainers of one rank: the second one takes the model over from the first at
 * any time. One catalog, which may be started again with nothing in it. One
 * engine, which may hang. Whatever is lost, an engine that serves holds one
 * version, no trainer that was replaced comes back by itself, and when faults
 * stop, the last step of the trainer that has the model becomes READY and is
 * served.
 *
 * What stands for what
 *   busy       a publisher's mutex: its callers and the thread of its membership
 *              that looks for a lost place and publishes again. One critical
 *              section is several steps here; each call of the catalog is one.
 *   place      what the catalog knows of a trainer's registration of now.
 *   late calls the caller gives up, as its deadline has passed, and the call
 *              takes effect at any time after that, but not under a new
 *              registration: it carries the worker of before.
 *   hangs      for ever. An engine that goes on later is a slow one, and each
 *              step of one may be slow.
 *   time       a lease that nobody renews expires at any time; one that is
 *              renewed does so EXPIRIES times (any number for safety), as
 *              renewals may be late.
 *
 * One rule a macro:
 *   NO_WORDS, NO_LEASES as in refit.pml
 *   RENEW_REVOKED   a renewal brings a lease back that was revoked
 *   OLD_LEASES      a commit under a lease of before counts
 *   NO_EXPIRY       leases do not expire
 *   NO_RENEWALS     nobody renews them
 *   KEEPER_LIVES    the thread that renews lives on while its engine hangs
 *   NO_DEADLINE     an update waits for leases without a deadline
 *   BLIND_REPUBLISH nobody looks at the epoch word before publishing again
 *   NO_REPUBLISH    who has a new place waits for its next step
 *   REJOIN_ANYHOW   a trainer that was replaced takes the model back
 *   FORGET_REFUSAL  who was refused tries again, as the catalog may have
 *                   forgotten who replaced it
 *   LOOK_ONCE       a place that was lost again before it was attached is not
 *                   looked for any more
 * And one that no code can keep: UNHEARD counts a trainer as replaced, too, that
 * did not hear of it before the catalog forgot it.
 */

#ifndef TRAINERS
#define TRAINERS 1
#endif
#ifndef CELLS
#define CELLS 1
#endif
#ifndef STEPS
#define STEPS 2
#endif
/* How often: a catalog loses all; a trainer's, the engine's connection breaks;
 * the engine hangs; a call of a publisher is given up and never made, or late. */
#ifndef RESTARTS
#define RESTARTS 0
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef ENGINE_CUTS
#define ENGINE_CUTS 0
#endif
#ifndef HANGS
#define HANGS 0
#endif
#ifndef EXPIRIES
#define EXPIRIES 0
#endif
#ifndef LOST_CALLS
#define LOST_CALLS 0
#endif
#ifndef LATE_CALLS
#define LATE_CALLS 0
#endif

/* Versions are numbered from 1, four at most; 0 is none, and "changing" in a
 * word. */
#define VERSIONS (TRAINERS * STEPS)
#define OF(v) (((v) - 1) / STEPS)
#define LAST(t) (((t) + 1) * STEPS)

/* The memory of trainers. */
byte word[TRAINERS];
byte memory[TRAINERS * CELLS];

/* What a publisher knows. */
bool busy[TRAINERS];
bool started[TRAINERS];
bool updating[TRAINERS] = true;
byte published[TRAINERS];
bool told[TRAINERS]; /* under the generation of now */
bool refused[TRAINERS]; /* it was told who replaced it */
bool last_step[TRAINERS]; /* it has begun: only the catalog may fail from here */

/* The catalog. */
mtype = { NONE, READY, RETIRING, GONE };
mtype = { UNKNOWN, REGISTERED, ATTACHED, DEAD };
mtype state[5] = NONE;
mtype place[TRAINERS] = UNKNOWN;
byte current;              /* 1 + the trainer whose epoch it is; 0: nobody's */
byte steps_of[TRAINERS];   /* the newest version of the rank in this epoch */
byte published_by[TRAINERS]; /* the newest of this registration */
byte lease;                /* version, 0 for none */

/* The version in a call that was given up. */
byte late[TRAINERS];

/* The engine. */
byte lease_id; /* that it has a lease on that version, as far as it knows */
byte committed;
bool fenced = true;
bool hangs_now;

/* Which trainer was replaced, for the judge alone. */
bool replaced[TRAINERS];

byte restarts = RESTARTS;
byte cuts = CUTS;
byte engine_cuts = ENGINE_CUTS;
byte hangs = HANGS;
byte expiries = EXPIRIES;
byte lost_calls = LOST_CALLS;
byte late_calls = LATE_CALLS;

/* The catalog's steps; each is used inside one atomic. */
inline withdraw(v) {
  state[v] = GONE;
  if
  :: lease == v -> lease = 0
  :: else
  fi
}
inline end_lease() {
  if
  :: lease != 0 && state[lease] == RETIRING -> withdraw(lease)
  :: else -> lease = 0
  fi
}
inline withdraw_all_of(t) {
  for (i : t * STEPS + 1 .. (t + 1) * STEPS) {
    if
    :: state[i] == READY || state[i] == RETIRING -> withdraw(i)
    :: else
    fi
  }
  i = 0
}

/* Of the other trainer, if there is one. */
#define OTHER(t) ((TRAINERS - 1) - (t))
#ifdef SAME_RUN
#define TAKEN_OVER(t) (current > (t) + 1)
#define NEWER(v) ((v) > committed)
#else
#ifdef REJOIN_ANYHOW
#define TAKEN_OVER(t) false
#else
#define TAKEN_OVER(t) (current != 0 && current != (t) + 1)
#endif
#define NEWER(v) (OF(v) != OF(committed) || (v) > committed)
#endif
#ifdef FORGET_REFUSAL
#define REMEMBERS(t) false
#else
#define REMEMBERS(t) refused[t]
#endif

/* Register: another run or an older epoch is fenced. */
inline enter(t) {
  if
  :: current != 0 && current != t + 1 ->
     place[OTHER(t)] = DEAD;
     withdraw_all_of(OTHER(t))
  :: else
  fi;
#if TRAINERS == 2
#ifdef SAME_RUN
  replaced[0] = replaced[0] || t == 1;
#else
  replaced[OTHER(t)] = started[OTHER(t)];
#endif
#endif
  current = t + 1;
  place[t] = REGISTERED
}

inline attach(t) {
  place[t] = ATTACHED;
  published_by[t] = 0;
  told[t] = false;
  late[t] = 0
}

/* RepublishShard; PublishShard is the same for a step that is new. `ok`: what
 * the caller hears. */
inline publish_shard(t, v) {
  if
  :: place[t] != ATTACHED -> ok = false
  :: place[t] == ATTACHED && published_by[t] == v -> ok = true
  :: place[t] == ATTACHED && published_by[t] != v && v <= steps_of[t] ->
     ok = false
  :: else ->
     withdraw_all_of(t);
     steps_of[t] = v;
     published_by[t] = v;
     state[v] = READY;
     ok = true
  fi
}

/* A new place, by the thread or a caller, under `busy`. `ok`: it has one. `end`:
 * it is refused one. */
inline take_again(t) {
  atomic {
    end = false;
    ok = false;
    if
    :: REMEMBERS(t) || TAKEN_OVER(t) -> end = true; refused[t] = true
    :: else -> enter(t); ok = true
    fi
  }
  if
  :: atomic { ok && place[t] == REGISTERED -> attach(t) }
  :: atomic { ok && place[t] == UNKNOWN -> ok = false }
  /* To register once more tells why. */
  :: atomic { ok && place[t] == DEAD && (REMEMBERS(t) || TAKEN_OVER(t)) ->
              ok = false; end = true; refused[t] = true }
  :: atomic { ok && place[t] == DEAD && !(REMEMBERS(t) || TAKEN_OVER(t)) ->
              enter(t) }
     atomic {
       if
       :: place[t] == REGISTERED -> attach(t)
       :: place[t] == DEAD -> ok = false; end = true
       :: else -> ok = false
       fi
     }
  :: else
  fi
}

/* Whether there is something to publish again. */
#ifdef BLIND_REPUBLISH
#define IS_STILL_THERE(t) (published[t] != 0)
#else
#define IS_STILL_THERE(t) \
  (!updating[t] && published[t] != 0 && word[t] == published[t])
#endif

/* What a call may do that was given up. */
inline give_up(t, v) {
  if
  :: late_calls > 0 && late[t] == 0 ->
     late_calls--;
     late[t] = v
  :: lost_calls > 0 -> lost_calls--
  fi
}
#define MAY_GIVE_UP(t) \
  (!last_step[t] && (lost_calls > 0 || late_calls > 0 && late[t] == 0))

/* The thread that looks for a lost place. */
proctype Look(byte t) {
  byte i;
  bool ok, end;
end_look:
  do
  :: atomic { started[t] && !busy[t] && place[t] != ATTACHED -> busy[t] = true }
     take_again(t);
     if
     :: end -> atomic { busy[t] = false; goto done }
#ifdef LOOK_ONCE
     :: !end && !ok -> atomic { busy[t] = false; goto done }
#endif
     :: else
     fi;
     atomic { busy[t] = false; ok = false }
#ifndef NO_REPUBLISH
  /* One step, as what is looked at changes only under the mutex. */
  :: atomic { place[t] == ATTACHED && !busy[t] && !told[t] &&
              IS_STILL_THERE(t) ->
       if
       :: MAY_GIVE_UP(t) -> give_up(t, published[t])
       :: true ->
          publish_shard(t, published[t]);
          told[t] = true
       fi;
       ok = false
     }
#endif
  od;
done:
  skip
}

proctype Trainer(byte t) {
  byte s, v, c, i;
  bool ok, end;

  atomic {
    if
    :: t == 0 || started[0] -> enter(t); attach(t); started[t] = true
    fi
  }
  for (s : 1 .. STEPS) {
again:
    /* BeginUpdate. */
    atomic { !busy[t] -> busy[t] = true; last_step[t] = (s == STEPS) }
begin:
    v = 0;
    atomic {
      if
      :: place[t] == ATTACHED ->
         v = steps_of[t];
         if
         :: v != 0 && (state[v] == READY || state[v] == RETIRING) ->
            state[v] = RETIRING;
            if
            :: lease != v -> withdraw(v); v = 0
            :: else
            fi
         :: else -> v = 0
         fi;
         ok = true
      :: else -> ok = false
      fi
    }
    if
    :: ok && v != 0 ->
       atomic {
         if
         :: place[t] == ATTACHED && state[v] != RETIRING
#ifndef NO_DEADLINE
         :: place[t] == ATTACHED && state[v] == RETIRING -> withdraw(v)
#endif
         :: place[t] != ATTACHED -> ok = false
         fi
       }
    :: else
    fi;
    if
    :: !ok ->
       take_again(t);
       if
       :: end ->
          /* Whoever trains may try again. */
          atomic {
            busy[t] = false;
            if
            :: !REMEMBERS(t) -> goto again
            :: goto replaced_out
            fi
          }
       :: else -> goto begin
       fi
    :: else
    fi;
    word[t] = 0;
    atomic { updating[t] = true; busy[t] = false }

    v = t * STEPS + s;
    for (c : 0 .. CELLS - 1) {
      memory[t * CELLS + c] = v
    }

    /* Publish. */
    atomic { !busy[t] -> busy[t] = true }
    atomic { word[t] = v; updating[t] = false }
    atomic {
      if
      :: MAY_GIVE_UP(t) -> give_up(t, v); end = true; ok = false
      :: true -> publish_shard(t, v); end = ok
      fi
    }
    if
    :: !ok && !end && place[t] != ATTACHED ->
       take_again(t);
       if
       :: ok -> atomic { publish_shard(t, v) }
       :: else
       fi
    :: else
    fi;
    atomic {
      if
      :: ok -> published[t] = v; told[t] = true
      :: else
      fi;
      end = false;
      v = 0;
      c = 0;
      busy[t] = false;
      if
      :: !ok && s == STEPS -> goto again
      :: else -> ok = false
      fi
    }
  }
replaced_out:
  skip
}

#define CUT(t) \
  atomic { \
    cuts > 0 && place[t] == ATTACHED && !last_step[t] -> \
    cuts--; \
    place[t] = DEAD; \
    withdraw_all_of(t) \
  }
#define TAKE_EFFECT(t) \
  atomic { late[t] != 0 -> publish_shard(t, late[t]); late[t] = 0; ok = false }

/* What goes wrong with the catalog and the connections to it. */
proctype Fault() {
  byte t, i;
  bool ok;
end_fault:
  do
  :: started[0]  /* time passes, whoever waits */
  :: atomic {
       restarts > 0 && started[0] ->
       restarts--;
       for (i : 1 .. VERSIONS) {
         state[i] = NONE
       }
       for (t : 0 .. TRAINERS - 1) {
         place[t] = UNKNOWN;
         steps_of[t] = 0;
         published_by[t] = 0;
#ifndef UNHEARD
         replaced[t] = refused[t]
#endif
       }
       current = 0;
       lease = 0;
       t = 0;
       i = 0
     }
  :: CUT(0)
#if TRAINERS == 2
  :: CUT(1)
#endif
  :: atomic { engine_cuts > 0 && lease != 0 -> engine_cuts--; end_lease() }
  :: TAKE_EFFECT(0)
#if TRAINERS == 2
  :: TAKE_EFFECT(1)
#endif
  od
}

#ifdef NO_RENEWALS
#define IS_RENEWED false
#else
#ifdef KEEPER_LIVES
#define IS_RENEWED true
#else
#define IS_RENEWED (!hangs_now)
#endif
#endif

/* Time. A renewal of a lease in force changes nothing here; one that comes late
 * is refused. */
proctype Time() {
end_time:
  do
  :: false
#ifndef NO_EXPIRY
  :: atomic { lease != 0 && !IS_RENEWED -> end_lease() }
#ifdef SAFETY
  :: atomic { lease != 0 && IS_RENEWED -> end_lease() }
#else
  :: atomic { lease != 0 && IS_RENEWED && expiries > 0 ->
       expiries--;
       end_lease()
     }
#endif
#endif
#ifdef RENEW_REVOKED
  :: atomic { lease_id != 0 && lease == 0 && IS_RENEWED -> lease = lease_id }
#endif
  od
}

#define IF_READY(v, otherwise) \
  ((v) <= VERSIONS && state[v] == READY && (fenced || NEWER(v)) -> v : otherwise)
#define NEWEST IF_READY(4, IF_READY(3, IF_READY(2, IF_READY(1, 0))))

proctype Engine() {
  byte v, c;
  byte held[CELLS];
  bool ok;
end_engine:
  do
  :: atomic {
       NEWEST != 0 ->
       v = NEWEST;
       lease = v;
       lease_id = v
     }
     fenced = true;
     ok = true;
#ifndef NO_WORDS
     ok = word[OF(v)] == v;
#endif
     if
     :: hangs > 0 ->
        hangs--;
        hangs_now = true;
end_hangs:
        false
     :: true
     fi;
     if
     :: ok ->
        for (c : 0 .. CELLS - 1) {
          held[c] = memory[OF(v) * CELLS + c]
        }
#ifndef NO_WORDS
        ok = word[OF(v)] == v
#endif
     :: else
     fi;
     /* ReleaseLease. */
     atomic {
#ifdef OLD_LEASES
       ok = ok && (lease == lease_id || state[v] == NONE);
#else
#ifndef NO_LEASES
       ok = ok && lease == lease_id;
#endif
#endif
       if
       :: lease != 0 -> end_lease()
       :: else
       fi;
       lease_id = 0
     }
     atomic {
       if
       :: ok ->
          for (c : 0 .. CELLS - 1) {
            assert(held[c] == v)
          }
          committed = v;
          fenced = false
       :: else
       fi;
       for (c : 0 .. CELLS - 1) {
         held[c] = 0
       }
       v = 0;
       c = 0;
       ok = false
     }
  od
}

/* What is READY lies in memory as it should, unless a call was late; and only
 * one trainer is there. */
#define LIES_THERE(v) ((v) > VERSIONS || state[v] != READY || word[OF(v)] == v)
#define WAS_REPLACED(v) \
  ((v) <= VERSIONS && state[v] == READY && replaced[OF(v)])
#define READY_OF(t) (state[(t) * STEPS + 1] == READY || state[LAST(t)] == READY)
proctype Judge() {
end_judge:
  do
#if LATE_CALLS == 0
  :: atomic { !(LIES_THERE(1) && LIES_THERE(2) && LIES_THERE(3) && LIES_THERE(4))
       -> assert(false) }
#endif
#if TRAINERS == 2
  :: atomic { READY_OF(0) && READY_OF(1) -> assert(false) }
  :: atomic { WAS_REPLACED(1) || WAS_REPLACED(2) || WAS_REPLACED(3) ||
              WAS_REPLACED(4) -> assert(false) }
#endif
  :: false
  od
}

init {
  byte k;
  atomic {
    for (k : 0 .. TRAINERS - 1) {
      run Trainer(k);
      run Look(k)
    }
    run Fault();
    run Time();
    run Engine();
#ifdef SAFETY
    run Judge()
#endif
  }
}

#ifndef SAFETY
#if TRAINERS == 2
#define HAS_IT(t) (current == (t) + 1 && state[LAST(t)] == READY)
#define SERVED(t) (committed == LAST(t) && !fenced)
ltl heals { <>[] (HAS_IT(0) && SERVED(0) || HAS_IT(1) && SERVED(1)) }
#else
#if HANGS > 0
ltl heals { <>[] (state[LAST(0)] == READY) }
#else
ltl heals { <>[] (state[LAST(0)] == READY && committed == LAST(0) && !fenced) }
#endif
#endif
#endif
