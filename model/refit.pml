/* The version protocol of one model (docs/design.md section 7): trainers of
 * NUM_EPOCHS epochs, each of RANKS ranks that publish STEPS steps, one catalog,
 * RECEIVERS engines. Whatever crashes, is taken for dead, is restarted or loses
 * an answer, an engine that serves holds exactly one version; and when faults
 * stop, every engine comes to serve the newest.
 *
 * What stands for what
 *   memory     CELLS cells a rank; the number of a version lies in each. A
 *              trainer writes, and an engine reads, one cell at a time.
 *   catalog    shared variables: one of its calls is one atomic step, as
 *              catalog/memory does it under its lock. An answer may be lost
 *              after the call took effect.
 *   deadline   a step that is always possible, as time passes for nobody.
 *   epoch      a trainer of epoch e + 1 may start at any time while that of
 *              epoch e goes on, unaware.
 *
 * One rule a macro, so that scripts/check_model.py can take it away and see the
 * model fail:
 *   NO_LATCH       an engine serves on while it receives
 *   EARLY_PUBLISH  a rank publishes before its last cell is written
 *   NO_REVOKE      an update waits for leases without a deadline
 *   NO_WORDS       engines do not look at epoch words
 *   NO_LEASES      updates do not wait for leases, nor commits ask for them
 * The last two guard the same thing: either alone keeps engines right, without
 * both they are torn.
 */

#ifndef RANKS
#define RANKS 2
#endif
#ifndef CELLS
#define CELLS 2
#endif
#ifndef STEPS
#define STEPS 2
#endif
#ifndef NUM_EPOCHS
#define NUM_EPOCHS 2
#endif
#ifndef RECEIVERS
#define RECEIVERS 1
#endif
/* How often each kind of fault may happen. */
#ifndef TRAINER_FAULTS
#define TRAINER_FAULTS 1
#endif
#ifndef ENGINE_FAULTS
#define ENGINE_FAULTS 1
#endif
#ifndef LOST_ANSWERS
#define LOST_ANSWERS 1
#endif

/* Whose trainers may be taken for dead: all, or those before the last epoch
 * (faults that stop). */
#ifdef SAFETY
#define FAULTY_RANKS (NUM_EPOCHS * RANKS)
#else
#define FAULTY_RANKS ((NUM_EPOCHS - 1) * RANKS)
#endif

/* Versions are numbered from 1, four at most; 0 is none, and "changing" in an epoch word. */
#define VERSIONS (NUM_EPOCHS * STEPS)
#define LAST VERSIONS
#define EPOCH_OF(v) (((v) - 1) / STEPS)
#define RANK(e, p) ((e) * RANKS + (p))
#define CELL(e, p, c) (RANK(e, p) * CELLS + (c))
#define HELD(r, p, c) (((r) * RANKS + (p)) * CELLS + (c))
#define ALL_RANKS ((1 << RANKS) - 1)

/* A trainer's own memory, which outlives it where it is mapped. */
byte word[NUM_EPOCHS * RANKS];
byte memory[NUM_EPOCHS * RANKS * CELLS];

/* The catalog. */
mtype = { NONE, STAGING, READY, RETIRING, GONE };
mtype state[5] = NONE;
byte published[5];             /* ranks, as bits */
byte epoch;                    /* the newest that has registered */
bool dead[NUM_EPOCHS * RANKS]; /* as far as the catalog knows */
byte lease[RECEIVERS];         /* version, 0 for none */
bool revoked[RECEIVERS];

/* An engine's own memory. */
byte held[RECEIVERS * RANKS * CELLS];
byte committed[RECEIVERS];
bool fenced[RECEIVERS] = true;

byte trainer_faults = TRAINER_FAULTS;
byte engine_faults = ENGINE_FAULTS;
byte lost_answers = LOST_ANSWERS;

/* The catalog's steps; each is used inside one atomic. */
inline withdraw(v) {
  state[v] = GONE;
  for (i : 0 .. RECEIVERS - 1) {
    if
    :: lease[i] == v -> lease[i] = 0; revoked[i] = true
    :: else
    fi
  }
}

/* Whether some engine has a lease of v. */
#if RECEIVERS == 1
#define LEASED(v) (lease[0] == v)
#else
#define LEASED(v) (lease[0] == v || lease[1] == v)
#endif

#define MAY_CALL(e, p) (epoch == (e) && !dead[RANK(e, p)])

proctype Trainer(byte e; byte p) {
  byte s, v, c, i;

  /* Register: a newer epoch takes over from an older one. */
  atomic {
    if
    :: epoch > e -> goto fenced_out
    :: epoch < e ->
       epoch = e;
       for (v : 1 .. e * STEPS) {
         if
         :: state[v] != NONE && state[v] != GONE -> withdraw(v)
         :: else
         fi
       }
    :: else
    fi
  }
  for (s : 1 .. STEPS) {
    /* BeginUpdate: nobody may begin to read the version before. */
    v = e * STEPS + s - 1;
    atomic {
      if
      :: !MAY_CALL(e, p) -> goto fenced_out
      :: s > 1 && (state[v] == STAGING || state[v] == READY) ->
         state[v] = RETIRING
      :: else
      fi
    }
    atomic {
      if
      :: !MAY_CALL(e, p) -> goto fenced_out
      :: MAY_CALL(e, p) && (s == 1 || !LEASED(v))
#ifndef NO_REVOKE
      :: MAY_CALL(e, p)  /* the deadline has passed */
#endif
      fi;
      if
      :: s > 1 && state[v] != GONE -> withdraw(v)
      :: else
      fi
    }

    word[RANK(e, p)] = 0;
    v = e * STEPS + s;
    c = 0;
    do
    :: c < CELLS - 1 -> memory[CELL(e, p, c)] = v; c++
    :: else -> break
    od;
#ifndef EARLY_PUBLISH
    memory[CELL(e, p, CELLS - 1)] = v;
#endif
    word[RANK(e, p)] = v;

    /* PublishShard. */
    atomic {
      if
      :: !MAY_CALL(e, p) -> goto fenced_out
      :: state[v] == GONE
      :: else ->
         published[v] = published[v] | (1 << p);
         state[v] = (published[v] == ALL_RANKS -> READY : STAGING)
      fi
    }
#ifdef EARLY_PUBLISH
    memory[CELL(e, p, CELLS - 1)] = v;
#endif
  }
fenced_out:
  skip
}

/* Takes trainers for dead, rightly or not, at any time; what they had published
 * is withdrawn. One that lives finds out at its next call. */
proctype Death() {
  byte k, v, i;
  do
  :: trainer_faults > 0 && FAULTY_RANKS > 0 ->
     atomic {
       trainer_faults--;
       select (k : 0 .. FAULTY_RANKS - 1);
       dead[k] = true;
       for (v : 1 .. VERSIONS) {
         if
         :: EPOCH_OF(v) == k / RANKS && (state[v] == RETIRING ||
            (published[v] & (1 << (k % RANKS))) && state[v] != GONE) ->
            withdraw(v)
         :: else
         fi
       }
     }
  :: break
  od
}

/* The newest that may be leased; 0 for none. */
#define IF_READY(v, otherwise) (v <= VERSIONS && state[v] == READY -> v : otherwise)
#define NEWEST IF_READY(4, IF_READY(3, IF_READY(2, IF_READY(1, 0))))

/* An engine that is killed in mid-transfer leaves what one leaves that lost the
 * answer to its request for a lease and is killed then: a lease nobody uses. */
proctype Engine(byte r) {
  byte v, p, c;
  bool ok;
  do
  :: else  /* waits for a version */
  :: atomic {
       NEWEST != 0 && (fenced[r] || NEWEST > committed[r]) ->
       v = NEWEST;
       lease[r] = v;
       revoked[r] = false;
       if
       :: lost_answers > 0 -> lost_answers--; goto again
       :: true
       fi
     }

#ifndef NO_LATCH
     fenced[r] = true;
#endif
     ok = true;
#ifndef NO_WORDS
     for (p : 0 .. RANKS - 1) {
       ok = ok && word[RANK(EPOCH_OF(v), p)] == v
     }
#endif
     if
     :: ok ->
        for (p : 0 .. RANKS - 1) {
          for (c : 0 .. CELLS - 1) {
            held[HELD(r, p, c)] = memory[CELL(EPOCH_OF(v), p, c)]
          }
        }
#ifndef NO_WORDS
        for (p : 0 .. RANKS - 1) {
          ok = ok && word[RANK(EPOCH_OF(v), p)] == v
        }
#endif
     :: else
     fi;

     /* ReleaseLease: a commit needs the catalog's word for it. */
     atomic {
#ifndef NO_LEASES
       ok = ok && lease[r] == v && !revoked[r];
#endif
       lease[r] = 0;
       if
       :: lost_answers > 0 -> lost_answers--; ok = false
       :: true
       fi
     }
     if
     :: ok -> atomic { committed[r] = v; fenced[r] = false }
     :: else
     fi;

again:
     if
     :: engine_faults > 0 ->
        atomic {
          engine_faults--;
          fenced[r] = true;
          committed[r] = 0;
          for (p : 0 .. RANKS - 1) {
            for (c : 0 .. CELLS - 1) {
              held[HELD(r, p, c)] = 0
            }
          }
        }
     :: true
     fi
  od
}

/* Fails as soon as an engine serves what is not one version. */
proctype Judge(byte r) {
  byte p, c;
end_judge:
  atomic {
    !fenced[r] ->
    for (p : 0 .. RANKS - 1) {
      for (c : 0 .. CELLS - 1) {
        assert(held[HELD(r, p, c)] == committed[r])
      }
    }
  }
  goto end_judge
}

init {
  byte k;
  atomic {
    for (k : 0 .. NUM_EPOCHS * RANKS - 1) {
      run Trainer(k / RANKS, k % RANKS)
    }
    run Death();
    for (k : 0 .. RECEIVERS - 1) {
      run Engine(k);
#ifdef SAFETY
      run Judge(k)
#endif
    }
  }
}

#ifndef SAFETY
ltl heals { <>[] (committed[0] == LAST && !fenced[0]) }
#endif
