/* What model/refit.pml leaves out (docs/fan_out.md, docs/receiver.md): a version
 * has several sources. TRAINERS ranks hold the same, replicas of each other.
 * Engine 0 serves what it has committed, as a copy; with SHADOW it receives into
 * a second set of buffers, changes the sets over, and may roll back. Engine 1
 * reads each cell from any of them, and goes on from others when it loses one.
 * The copy holds all that a trainer does: with STANDS_IN a version that is READY
 * outlives its trainers by it, until it leaves, or the next version is READY.
 * Whatever is lost at whatever moment, an engine that serves holds exactly one
 * version; and when faults stop, both come to serve the newest.
 *
 * What stands for what is as in refit.pml. A copy waits for nobody: who still
 * reads it sees its epoch word. A digest shows by itself only where it decides
 * what is kept of what had arrived: a cell that holds the version.
 *
 * One rule a macro:
 *   NO_WORDS        engines do not look at epoch words
 *   NO_LEASES       updates do not wait for leases, nor commits ask for them
 *   COPY_SERVES_ON  a copy's word stays while its engine's memory changes
 *   WORD_COMES_BACK a copy serves a version again under the word of before
 *   KEEP_UNPROVEN   what came from a source that was lost is kept unproven
 *   SWITCH_UNPROVEN the sets change over before it is known what arrived
 *   NO_LATCH        an engine serves while its live set changes
 *   LEAVES_UNSEEN   what a copy keeps alone stays READY when the copy leaves
 * What a copy changes by itself, in a rollback, no lease knows of: there epoch
 * words are needed. Else either of the two is enough.
 */

#ifndef TRAINERS
#define TRAINERS 1
#endif
#ifndef CELLS
#define CELLS 2
#endif
#ifndef STEPS
#define STEPS 2
#endif
/* How often a trainer may be taken for dead, an engine be killed, engine 0 roll
 * back. */
#ifndef TRAINER_FAULTS
#define TRAINER_FAULTS 0
#endif
#ifndef ENGINE_FAULTS
#define ENGINE_FAULTS 0
#endif
#ifndef ROLLBACKS
#define ROLLBACKS 0
#endif

#define COPY TRAINERS
#define SOURCES (TRAINERS + 1)
#define LAST STEPS
#define BIT(i) (1 << (i))
#define HELD(r, c) ((r) * CELLS + (c))

/* Of trainers, then of the copy; 0 is "changing". */
byte word[SOURCES];
byte life;   /* of the copy: the catalog knows it by a new number in each */
byte served; /* the newest version that it has served in this life */
byte trained[TRAINERS * CELLS];

/* The catalog. Versions are numbered from 1, three at most. */
mtype = { NONE, STAGING, READY, RETIRING, GONE };
mtype state[4] = NONE;
byte holds[SOURCES]; /* version */
bool dead[TRAINERS]; /* as far as the catalog knows */
byte lease[2];       /* version, 0 for none */
bool revoked[2];

/* Engines. */
byte held[2 * CELLS]; /* what they serve from */
byte second[CELLS];   /* the other set of engine 0, with SHADOW */
byte previous;        /* the version in it; 0 if it is none */
byte committed[2];
bool fenced[2] = true;

byte trainer_faults = TRAINER_FAULTS;
byte engine_faults = ENGINE_FAULTS;
byte rollbacks = ROLLBACKS;

/* The catalog's steps; each is used inside one atomic. */
#define REVOKE(v, r) \
  if \
  :: lease[r] == v -> lease[r] = 0; revoked[r] = true \
  :: else \
  fi
inline withdraw(v) {
  state[v] = GONE;
  REVOKE(v, 0);
  REVOKE(v, 1)
}

#define LEASED(v) (lease[0] == v || lease[1] == v)
#ifdef STANDS_IN
#define COPY_HOLDS(v) (holds[COPY] == v)
#else
#define COPY_HOLDS(v) false
#endif
#if TRAINERS == 1
#define ALL_HOLD(v) (holds[0] == v)
#define OTHER_HOLDS(t, v) COPY_HOLDS(v)
#define TRAINER_HOLDS(v) (holds[0] == v && !dead[0])
#else
#define ALL_HOLD(v) (holds[0] == v && holds[1] == v)
#define OTHER_HOLDS(t, v) (holds[1 - t] == v && !dead[1 - t] || COPY_HOLDS(v))
#define TRAINER_HOLDS(v) (holds[0] == v && !dead[0] || \
                          holds[1] == v && !dead[1])
#endif
/* The copy leaves: what it kept alone is over. */
inline leave() {
#if defined(STANDS_IN) && !defined(LEAVES_UNSEEN)
  if
  :: holds[COPY] != 0 && state[holds[COPY]] == READY &&
     !TRAINER_HOLDS(holds[COPY]) ->
     withdraw(holds[COPY])
  :: else
  fi;
#endif
  holds[COPY] = 0
}

/* One that was taken for dead ends, or registers anew and holds nothing. */
#ifdef STANDS_IN
#define IF_DEAD dead[t] = false
#else
#define IF_DEAD goto fenced_out
#endif

proctype Trainer(byte t) {
  byte v, c;

  for (v : 1 .. STEPS) {
    /* BeginUpdate. For those who read copies the version ends, too. */
    atomic {
      if
      :: dead[t] -> IF_DEAD
      :: !dead[t] && holds[t] == v - 1 &&
         (state[v - 1] == STAGING || state[v - 1] == READY) ->
         state[v - 1] = RETIRING
      :: else
      fi
    }
    atomic {
      if
      :: dead[t] -> IF_DEAD
      :: !dead[t] && !LEASED(v - 1)
      :: !dead[t]  /* the deadline has passed, or NO_LEASES */
      fi;
      if
      :: v > 1 && holds[t] == v - 1 && state[v - 1] != GONE -> withdraw(v - 1)
      :: else
      fi
    }
    word[t] = 0;
    for (c : 0 .. CELLS - 1) {
      trained[t * CELLS + c] = v
    }
    word[t] = v;
    /* PublishShard. */
    atomic {
      if
      :: dead[t] -> IF_DEAD
      :: else
      fi;
      if
      :: state[v] == GONE
      :: else ->
         holds[t] = v;
         state[v] = (ALL_HOLD(v) -> READY : STAGING);
         /* What copies have kept. */
         if
         :: state[v] == READY && state[v - 1] == READY && LEASED(v - 1) ->
            state[v - 1] = RETIRING
         :: state[v] == READY && state[v - 1] == READY && !LEASED(v - 1) ->
            withdraw(v - 1)
         :: else
         fi
      fi
    }
  }
fenced_out:
  skip
}

/* Takes a trainer for dead, rightly or not. What a replica holds, too, stays. */
proctype Death() {
  byte t, v;
  do
  :: trainer_faults > 0 ->
     atomic {
       trainer_faults--;
       select (t : 0 .. TRAINERS - 1);
#ifdef HEALS
       /* What ends the newest version is healed by one that does not come. */
       if
       :: holds[t] == LAST -> goto over
       :: else
       fi;
#endif
       dead[t] = true;
       for (v : 1 .. STEPS) {
         if
         :: state[v] == READY && OTHER_HOLDS(t, v)
         :: state[v] == RETIRING || holds[t] == v && state[v] != GONE &&
            !(state[v] == READY && OTHER_HOLDS(t, v)) ->
            withdraw(v)
         :: else
         fi
       }
       holds[t] = 0
     }
  :: break
  od;
over:
  skip
}

#define IF_READY(v, otherwise) (v <= STEPS && state[v] == READY -> v : otherwise)
#define NEWEST IF_READY(3, IF_READY(2, IF_READY(1, 0)))
#if TRAINERS == 1
#define HOLDERS(v) ((holds[0] == v && !dead[0]) | ((holds[COPY] == v) << 1))
#else
#define HOLDERS(v) ((holds[0] == v && !dead[0]) | \
                    ((holds[1] == v && !dead[1]) << 1) | \
                    ((holds[COPY] == v) << 2))
#endif
/* The copy's memory of another life is not what is read. */
#define SHOWS(s) (word[s] == v && ((s) != COPY || linked == life))
#define LOST(s) (BIT(s) & used && ((s) == COPY -> !SHOWS(s) : dead[s]))
#if TRAINERS == 1
#define ALL_LOST (LOST(0) * BIT(0) | LOST(1) * BIT(1))
#else
#define ALL_LOST (LOST(0) * BIT(0) | LOST(1) * BIT(1) | LOST(2) * BIT(2))
#endif

/* The words of all from whom something comes. */
inline check_words() {
#ifndef NO_WORDS
  for (s : 0 .. SOURCES - 1) {
    ok = ok && (!(used & BIT(s)) || SHOWS(s))
  }
#endif
  s = 0
}

#ifdef SHADOW
#define IN_PLACE(r) (r == 1)
#else
#define IN_PLACE(r) true
#endif

/* Nobody is waited for; the catalog may be one that cannot be told. */
inline end_copy() {
#ifndef COPY_SERVES_ON
  word[COPY] = 0;
  if
  :: atomic { leave() }
  :: true
  fi
#else
  skip
#endif
}

/* The two sets of engine 0 change places, with `v` in the second one. */
inline change_over() {
  end_copy();
#ifndef NO_LATCH
  fenced[0] = true;
#endif
  for (c : 0 .. CELLS - 1) {
    /* One cell is exchanged at a time. */
    d_step { s = held[c]; held[c] = second[c]; second[c] = s }
  }
  atomic { previous = committed[0]; committed[0] = v; fenced[0] = false; s = 0 }
}

proctype Engine(byte r) {
  byte v, c, s, sources, used, linked, from, arrived, landed;
  bool ok;
  do
  :: else /* waits for a version */
  :: atomic {
       NEWEST != 0 && (fenced[r] || NEWEST > committed[r]) ->
       v = NEWEST;
       lease[r] = v;
       revoked[r] = false;
       sources = HOLDERS(v);
       linked = life;
       if
       :: r == 0 -> sources = sources & (BIT(COPY) - 1)
       :: else
       fi;
       arrived = 0;
       landed = 0;
       ok = sources != 0
     }
     if
     :: IN_PLACE(r) ->
        if
        :: r == 0 -> end_copy()
        :: else
        fi;
#ifndef NO_LATCH
        fenced[r] = true
#endif
     :: else -> previous = 0
     fi;

again:
     /* The plan takes from some of them. */
     atomic {
       if
       :: used = sources
       :: sources & BIT(0) -> used = BIT(0)
       :: sources & BIT(1) -> used = BIT(1)
       :: sources & BIT(2) -> used = BIT(2)
       fi
     }
     check_words();
     if
     :: ok ->
        for (c : 0 .. CELLS - 1) {
          if
          :: !(arrived & BIT(c)) ->
             atomic {
               if
               :: used & BIT(0) -> from = 0
               :: used & BIT(1) -> from = 1
               :: used & BIT(2) -> from = 2
               fi;
               s = (from == COPY -> held[c] : trained[(from % TRAINERS) * CELLS + c]);
               if
               :: IN_PLACE(r) -> held[HELD(r, c)] = s
               :: !IN_PLACE(r) -> second[c] = s
               fi;
               landed = landed | BIT(c);
               s = 0;
               from = 0
             }
          :: else
          fi
        }
        check_words()
     :: else
     fi;
     /* Whoever is lost is left, and what others hold, too, comes from them. */
     atomic {
       s = ALL_LOST;
       if
       :: !ok && s && (sources & ~s) ->
          sources = sources & ~s;
          ok = true;
          arrived = 0;
          for (c : 0 .. CELLS - 1) {
#ifdef KEEP_UNPROVEN
            arrived = arrived | (landed & BIT(c))
#else
            arrived = arrived |
                ((IN_PLACE(r) -> held[HELD(r, c)] : second[c]) == v) * BIT(c)
#endif
          }
          s = 0;
          c = 0;
          goto again
       :: else
       fi;
       s = 0;
       c = 0;
       from = 0;
       sources = 0;
       used = 0;
       linked = 0;
       arrived = 0;
       landed = 0
     }

     /* ReleaseLease. */
     atomic {
#ifndef NO_LEASES
       ok = ok && lease[r] == v && !revoked[r];
#endif
       lease[r] = 0
     }
#ifdef SWITCH_UNPROVEN
     ok = ok || !IN_PLACE(r);
#endif
     if
     :: ok && IN_PLACE(r) -> atomic { committed[r] = v; fenced[r] = false }
     :: ok && !IN_PLACE(r) -> change_over()
     :: else
     fi;

     /* Serves what it has committed, while the catalog has it as READY. */
     if
     :: r == 0 && ok ->
        atomic {
          if
#ifndef WORD_COMES_BACK
          :: served >= v -> life++
#endif
          :: else
          fi;
          served = v;
          word[COPY] = v
        }
        atomic {
          if
          :: state[v] == READY -> holds[COPY] = v
          :: else
          fi
        }
     :: else
     fi;
     atomic { ok = false; v = 0; c = 0 }

  :: atomic { r == 0 && rollbacks > 0 && previous > 0 -> rollbacks--; v = previous }
     change_over();
     atomic { v = 0; c = 0 }

  /* Killed, between two refits or in the middle of one, which is the same: the
   * next one leaves a lease that nobody uses. New memory, nothing committed. */
  :: atomic {
       engine_faults > 0 ->
       engine_faults--;
       fenced[r] = true;
       committed[r] = 0;
       for (c : 0 .. CELLS - 1) {
         held[HELD(r, c)] = 0
       }
       c = 0;
       if
       :: r == 0 ->
          word[COPY] = 0;
          leave();
          life++;
          served = 0;
          previous = 0
       :: else
       fi
     }
  od
}

/* Fails as soon as an engine serves what is not one version. */
proctype Judge(byte r) {
  byte c;
end_judge:
  atomic {
    !fenced[r] ->
    for (c : 0 .. CELLS - 1) {
      assert(held[HELD(r, c)] == committed[r])
    }
    c = 0
  }
  goto end_judge
}

/* Fails as soon as what is READY is held by nobody. */
proctype Auditor() {
end_auditor:
  atomic {
    (state[1] == READY && HOLDERS(1) == 0) ||
    (state[2] == READY && HOLDERS(2) == 0) -> assert(false)
  }
}

init {
  byte k;
  atomic {
    for (k : 0 .. TRAINERS - 1) {
      run Trainer(k)
    }
    if
    :: TRAINER_FAULTS > 0 -> run Death()
    :: else
    fi;
    run Engine(0);
    run Engine(1);
#ifdef SAFETY
    run Auditor();
    run Judge(0);
    run Judge(1)
#endif
  }
}

#ifndef SAFETY
ltl heals { <>[] (committed[0] == LAST && !fenced[0] &&
                  committed[1] == LAST && !fenced[1]) }
#endif
