"""The tables, and how an older store becomes a current one.

The life cycle lives here: legal moves are rows of `transition`, and triggers refuse every other move, write the history
and keep the tallies. Whatever code changes a status, from whatever process, cannot bypass it.

Migrations are functions registered with sqlite-utils; all pending ones run in one transaction (see `migrate`). sqlite-utils
takes a tenth of a second to import, so this module imports it only where a store is made or migrated.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from minipipe import states
from minipipe.chance import fresh_id
from minipipe.store import migrating

APPLICATION_ID = 0x6D70_6970  # "mpip": how `file`, SQLite and we tell our database from others
VERSION = 2

_TABLES = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE transition (
    old TEXT NOT NULL, new TEXT NOT NULL, forced INTEGER NOT NULL, PRIMARY KEY (old, new)
) STRICT, WITHOUT ROWID;

CREATE TABLE project (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE queue (
    name TEXT PRIMARY KEY, uid TEXT NOT NULL UNIQUE, paused INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per process that owns tasks: agents (workers) and ordinary processes that run a pipeline themselves.
-- Alive means: the lock file workers/<uid>.lock is held. The times are for people, never for decisions.
CREATE TABLE worker (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('agent', 'process')),
    pid INTEGER NOT NULL, host TEXT NOT NULL, slots INTEGER NOT NULL, queues TEXT NOT NULL, session TEXT NOT NULL,
    started_at REAL NOT NULL, ended_at REAL, end_reason TEXT
) STRICT;
CREATE INDEX worker_alive ON worker (id) WHERE ended_at IS NULL;

CREATE TABLE task (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES project (id),
    parent_id INTEGER REFERENCES task (id),        -- the run that a step belongs to
    template_id INTEGER REFERENCES task (id),      -- what it was cloned from
    run_name TEXT UNIQUE,                          -- two words, runs only
    version TEXT,
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',               -- why it is in this status
    error TEXT,                                    -- JSON: type, message, where, traceback of the last failure

    queue TEXT REFERENCES queue (name),
    priority INTEGER NOT NULL DEFAULT 0,
    ticket INTEGER NOT NULL DEFAULT 0,             -- place in the queue: smaller is earlier
    controller INTEGER NOT NULL DEFAULT 0,         -- 1: takes no step slot
    session TEXT NOT NULL DEFAULT '',              -- the command whose embedded workers may serve it
    private INTEGER NOT NULL DEFAULT 0,            -- 1: only workers of that session may
    waiting_on INTEGER NOT NULL DEFAULT 0,         -- parents that have not been counted down yet
    hold TEXT,                                     -- what its controller has to do first: 'launch' or 'retry'
    gate INTEGER NOT NULL DEFAULT 0,               -- 1: its children wait until its controller has run its callbacks
    not_before REAL NOT NULL DEFAULT 0,            -- never NULL: NULL < now is not true

    attempt INTEGER NOT NULL DEFAULT 0,
    token TEXT,                                    -- the fence: 128 random bits per attempt
    worker_id INTEGER REFERENCES worker (id),
    abort_requested INTEGER NOT NULL DEFAULT 0, abort_grace_s REAL,
    retries INTEGER NOT NULL DEFAULT 0, max_retries INTEGER NOT NULL DEFAULT 0, ask_retry INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0, returns INTEGER NOT NULL DEFAULT 0,
    time_limit_s REAL,

    tolerated INTEGER NOT NULL DEFAULT 0,          -- continue_on_fail: its failure does not fail the run
    abort_on_failure INTEGER NOT NULL DEFAULT 0,   -- of a run: the first failed step stops the others
    revive INTEGER NOT NULL DEFAULT 0,             -- a resumed run may run it again
    superseded INTEGER NOT NULL DEFAULT 0,         -- a resumed run replaced it by another step of the same name

    placeholders INTEGER NOT NULL DEFAULT 0,       -- 1: parameters hold ${step…} that its parents' ends decide
    entry TEXT NOT NULL DEFAULT '{}',              -- JSON: what to run
    settings TEXT NOT NULL DEFAULT '{}',           -- JSON: recorded arguments without effect here
    use_cache INTEGER NOT NULL DEFAULT 0,          -- may be served from the cache
    code_key TEXT REFERENCES code (key),
    key_base TEXT,                                 -- digest of all that is known at submission; NULL: no stable digest
    cache_key TEXT,
    cached_from INTEGER REFERENCES task (id),

    progress INTEGER, comment TEXT NOT NULL DEFAULT '', archived INTEGER NOT NULL DEFAULT 0, log TEXT,
    created_at REAL NOT NULL, queued_at REAL, started_at REAL, ended_at REAL, updated_at REAL NOT NULL,
    duration_s REAL,                               -- monotonic time of the last attempt
    CHECK ((status = 'in_progress') = (worker_id IS NOT NULL))
) STRICT;
CREATE INDEX task_public ON task (queue, controller, priority DESC, ticket, id) WHERE status = 'queued' AND private = 0;
CREATE INDEX task_session ON task (session, controller, priority DESC, ticket, id) WHERE status = 'queued' AND session <> '';
CREATE INDEX task_held ON task (worker_id) WHERE status = 'in_progress';
CREATE INDEX task_parent ON task (parent_id, name);
CREATE INDEX task_runs ON task (id) WHERE run_name IS NOT NULL AND archived = 0;
CREATE INDEX task_project ON task (project_id, name);

CREATE TABLE edge (
    child_id INTEGER NOT NULL REFERENCES task (id), parent_id INTEGER NOT NULL REFERENCES task (id),
    kind TEXT NOT NULL CHECK (kind IN ('data', 'order', 'control')),   -- control: shown, decides nothing
    PRIMARY KEY (child_id, parent_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX edge_parent ON edge (parent_id, child_id);

CREATE TABLE event (
    id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL REFERENCES task (id), at REAL NOT NULL,
    kind TEXT NOT NULL, old TEXT, new TEXT, attempt INTEGER, worker_id INTEGER, detail TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX event_task ON event (task_id);

CREATE TABLE tally (
    scope INTEGER NOT NULL, status TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (scope, status)
) STRICT, WITHOUT ROWID;

CREATE TABLE blob (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, refs INTEGER NOT NULL DEFAULT 0,
    bytes BLOB, mtime_ns INTEGER
) STRICT;
CREATE INDEX blob_garbage ON blob (id) WHERE refs = 0;

CREATE TABLE code (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, source TEXT NOT NULL, parts TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE artifact (
    id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL REFERENCES task (id),
    role TEXT NOT NULL CHECK (role IN ('code', 'input', 'reference', 'output')), name TEXT NOT NULL,
    digest TEXT REFERENCES blob (digest), codec TEXT NOT NULL DEFAULT '', type TEXT NOT NULL DEFAULT '',
    key TEXT,                                      -- digest of the value, equal in every process; goes into cache keys
    source_id INTEGER REFERENCES task (id), source_name TEXT,
    preview TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0, metadata TEXT NOT NULL DEFAULT '{}',
    created_at REAL NOT NULL,
    UNIQUE (task_id, role, name)
) STRICT;
CREATE INDEX artifact_digest ON artifact (digest);

CREATE TABLE cache (
    key TEXT NOT NULL, task_id INTEGER NOT NULL REFERENCES task (id), PRIMARY KEY (key, task_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE parameter (
    id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL REFERENCES task (id), section TEXT NOT NULL, name TEXT NOT NULL,
    text TEXT NOT NULL, type TEXT NOT NULL DEFAULT '', value TEXT NOT NULL, key TEXT, description TEXT,
    UNIQUE (task_id, section, name)
) STRICT;

CREATE TABLE placeholder (
    task_id INTEGER NOT NULL REFERENCES task (id), section TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (task_id, section, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE configuration (
    task_id INTEGER NOT NULL REFERENCES task (id), name TEXT NOT NULL, text TEXT NOT NULL, kind TEXT NOT NULL DEFAULT '',
    description TEXT NOT NULL DEFAULT '', UNIQUE (task_id, name)
) STRICT;

CREATE TABLE metric (
    id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL REFERENCES task (id), attempt INTEGER NOT NULL,
    title TEXT NOT NULL, series TEXT NOT NULL, iteration INTEGER, value REAL, at REAL NOT NULL
) STRICT;
CREATE INDEX metric_series ON metric (task_id, title, series);

CREATE TABLE monitor (
    task_id INTEGER NOT NULL REFERENCES task (id), kind TEXT NOT NULL CHECK (kind IN ('metric', 'artifact')),
    title TEXT NOT NULL, series TEXT NOT NULL, to_title TEXT NOT NULL, to_series TEXT NOT NULL,
    PRIMARY KEY (task_id, kind, title, series, to_title, to_series)
) STRICT, WITHOUT ROWID;

CREATE TABLE tag (
    task_id INTEGER NOT NULL REFERENCES task (id), name TEXT NOT NULL, system INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (task_id, name, system)
) STRICT, WITHOUT ROWID;
CREATE INDEX tag_name ON tag (name);
"""

_TRIGGERS = (
    """
CREATE TRIGGER task_move BEFORE UPDATE OF status ON task WHEN OLD.status <> NEW.status
 AND NOT EXISTS (SELECT 1 FROM transition WHERE old = OLD.status AND new = NEW.status)
BEGIN
    SELECT RAISE(ABORT, 'illegal move');
END""",
    """
CREATE TRIGGER task_born AFTER INSERT ON task
BEGIN
    INSERT INTO event (task_id, at, kind, new, attempt, detail)
    VALUES (NEW.id, NEW.updated_at, 'status', NEW.status, NEW.attempt, NEW.reason);
    INSERT INTO tally VALUES (coalesce(NEW.parent_id, 0), NEW.status, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END""",
    """
CREATE TRIGGER task_moved AFTER UPDATE OF status ON task WHEN OLD.status <> NEW.status
BEGIN
    INSERT INTO event (task_id, at, kind, old, new, attempt, worker_id, detail)
    VALUES (NEW.id, NEW.updated_at, 'status', OLD.status, NEW.status, NEW.attempt,
            coalesce(NEW.worker_id, OLD.worker_id), NEW.reason);
    UPDATE tally SET n = n - 1 WHERE scope = coalesce(OLD.parent_id, 0) AND status = OLD.status AND NEW.superseded = 0;
    INSERT INTO tally SELECT coalesce(NEW.parent_id, 0), NEW.status, 1 WHERE NEW.superseded = 0
        ON CONFLICT DO UPDATE SET n = n + 1;
END""",
    # A superseded step stays in the history but is no step of its run any more, whatever becomes of it.
    """
CREATE TRIGGER task_superseded AFTER UPDATE OF superseded ON task WHEN OLD.superseded = 0 AND NEW.superseded = 1
BEGIN
    UPDATE tally SET n = n - 1 WHERE scope = coalesce(NEW.parent_id, 0) AND status = NEW.status;
END""",
    """
CREATE TRIGGER task_gone AFTER DELETE ON task WHEN OLD.superseded = 0
BEGIN
    UPDATE tally SET n = n - 1 WHERE scope = coalesce(OLD.parent_id, 0) AND status = OLD.status;
END""",
    """
CREATE TRIGGER event_kept BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'history cannot be changed');
END""",
    """
CREATE TRIGGER artifact_linked AFTER INSERT ON artifact WHEN NEW.digest IS NOT NULL
BEGIN
    UPDATE blob SET refs = refs + 1 WHERE digest = NEW.digest;
END""",
    """
CREATE TRIGGER artifact_unlinked AFTER DELETE ON artifact WHEN OLD.digest IS NOT NULL
BEGIN
    UPDATE blob SET refs = refs - 1 WHERE digest = OLD.digest;
END""",
    """
CREATE TRIGGER artifact_relinked AFTER UPDATE OF digest ON artifact WHEN OLD.digest IS NOT NEW.digest
BEGIN
    UPDATE blob SET refs = refs - 1 WHERE digest = OLD.digest;
    UPDATE blob SET refs = refs + 1 WHERE digest = NEW.digest;
END""",
)


def _first(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    for trigger in _TRIGGERS:
        connection.execute(trigger)
    moves = [(old, new, forced) for old, pair in states.MOVES.items() for forced, news in enumerate(pair) for new in news]
    connection.executemany("INSERT INTO transition VALUES (?, ?, ?)", moves)
    now = time.time()
    connection.executemany("INSERT INTO queue VALUES (?, ?, 0, ?)", [(name, fresh_id(), now) for name in ("default", "services")])
    connection.executemany("INSERT INTO meta VALUES (?, ?)", [("store_id", fresh_id()), ("created_at", str(now))])


_ENVIRONMENTS = (
    """
CREATE TABLE environment (
    digest TEXT PRIMARY KEY,                       -- of python and lines
    python TEXT NOT NULL, lines TEXT NOT NULL,     -- JSON list: what was asked for
    resolved TEXT,                                 -- JSON list of name==version; NULL: never built
    installer TEXT NOT NULL DEFAULT '', created_at REAL NOT NULL, built_at REAL, duration_s REAL
) STRICT, WITHOUT ROWID""",
    "ALTER TABLE task ADD COLUMN environment TEXT REFERENCES environment (digest)",
)


_REPORTED = (
    # What a task shows beside its scalars. `kind` says where it belongs, `type` what its bytes are.
    """
CREATE TABLE plot (
    id INTEGER PRIMARY KEY,
    task_id INTEGER REFERENCES task (id), model_id INTEGER REFERENCES model (id), attempt INTEGER NOT NULL DEFAULT 0,
    kind TEXT NOT NULL CHECK (kind IN ('plot', 'table', 'sample')),
    title TEXT NOT NULL, series TEXT NOT NULL, iteration INTEGER,
    type TEXT NOT NULL,                            -- media type; a figure is application/vnd.plotly.v1+json
    file TEXT NOT NULL DEFAULT '',                 -- name of the file it came as
    digest TEXT REFERENCES blob (digest), url TEXT, size INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL,
    CHECK ((task_id IS NULL) <> (model_id IS NULL)), CHECK ((digest IS NULL) <> (url IS NULL))
) STRICT""",
    "CREATE INDEX plot_task ON plot (task_id, kind, title, series) WHERE task_id IS NOT NULL",
    "CREATE INDEX plot_model ON plot (model_id) WHERE model_id IS NOT NULL",
    "CREATE INDEX plot_digest ON plot (digest)",
    """
CREATE TABLE model (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES project (id),
    task_id INTEGER REFERENCES task (id),          -- that made it; NULL: imported, or that task was deleted
    framework TEXT NOT NULL DEFAULT '', comment TEXT NOT NULL DEFAULT '',
    config TEXT NOT NULL DEFAULT '',               -- text, its "design"
    labels TEXT NOT NULL DEFAULT '{}',             -- JSON: name -> number
    tags TEXT NOT NULL DEFAULT '[]', system_tags TEXT NOT NULL DEFAULT '[]',   -- JSON
    metadata TEXT NOT NULL DEFAULT '{}',           -- JSON: key -> {"value", "type"}, both text
    digest TEXT REFERENCES blob (digest), file TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0,
    packed INTEGER NOT NULL DEFAULT 0,             -- 1: the weights are a zip of several files
    url TEXT,                                      -- where weights lie that were only registered; never read by us
    iteration INTEGER, published INTEGER NOT NULL DEFAULT 0, archived INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL, updated_at REAL NOT NULL,
    CHECK (digest IS NULL OR url IS NULL)
) STRICT""",
    "CREATE INDEX model_project ON model (project_id, name)",
    "CREATE INDEX model_task ON model (task_id)",
    "CREATE INDEX model_digest ON model (digest)",
    """
CREATE TABLE task_model (
    id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL REFERENCES task (id), model_id INTEGER NOT NULL REFERENCES model (id),
    role TEXT NOT NULL CHECK (role IN ('input', 'output')), name TEXT NOT NULL,
    step_id INTEGER REFERENCES task (id), monitor TEXT,   -- the step that it was mirrored from, and by which entry
    UNIQUE (task_id, role, name, model_id)
) STRICT""",
    "CREATE INDEX task_model_model ON task_model (model_id)",
    "CREATE INDEX task_model_step ON task_model (step_id) WHERE step_id IS NOT NULL",
    """
CREATE TABLE model_metric (
    id INTEGER PRIMARY KEY, model_id INTEGER NOT NULL REFERENCES model (id),
    title TEXT NOT NULL, series TEXT NOT NULL, iteration INTEGER, value REAL, at REAL NOT NULL
) STRICT""",
    "CREATE INDEX model_metric_series ON model_metric (model_id, title, series)",
    # SQLite cannot change a CHECK: the table is made anew.
    """
CREATE TABLE monitor_two (
    task_id INTEGER NOT NULL REFERENCES task (id), kind TEXT NOT NULL CHECK (kind IN ('metric', 'artifact', 'model')),
    title TEXT NOT NULL, series TEXT NOT NULL, to_title TEXT NOT NULL, to_series TEXT NOT NULL,
    PRIMARY KEY (task_id, kind, title, series, to_title, to_series)
) STRICT, WITHOUT ROWID""",
    "INSERT INTO monitor_two SELECT task_id, kind, title, series, to_title, to_series FROM monitor",
    "DROP TABLE monitor",
    "ALTER TABLE monitor_two RENAME TO monitor",
)


def _counted(table: str) -> tuple[str, ...]:
    """Triggers that count a table's digests as references to blobs."""
    gained = "UPDATE blob SET refs = refs + 1 WHERE digest = NEW.digest;"
    lost = "UPDATE blob SET refs = refs - 1 WHERE digest = OLD.digest;"
    return (
        f"CREATE TRIGGER {table}_linked AFTER INSERT ON {table} WHEN NEW.digest IS NOT NULL BEGIN {gained} END",
        f"CREATE TRIGGER {table}_unlinked AFTER DELETE ON {table} WHEN OLD.digest IS NOT NULL BEGIN {lost} END",
        f"CREATE TRIGGER {table}_relinked AFTER UPDATE OF digest ON {table} WHEN OLD.digest IS NOT NEW.digest"
        f" BEGIN {lost} {gained} END",
    )


# What the removal of a task asks: who refers to it? Without these each removal reads the whole history.
_REFERENCES = (
    "CREATE INDEX task_served ON task (cached_from) WHERE cached_from IS NOT NULL",
    "CREATE INDEX task_copied ON task (template_id) WHERE template_id IS NOT NULL",
    "CREATE INDEX task_code ON task (code_key) WHERE code_key IS NOT NULL",
    "CREATE INDEX task_environment ON task (environment) WHERE environment IS NOT NULL",
    "CREATE INDEX cache_task ON cache (task_id)",
    "CREATE INDEX artifact_source ON artifact (source_id) WHERE source_id IS NOT NULL",
)

_PIPELINES = (
    "ALTER TABLE parameter ADD COLUMN declared TEXT",  # JSON: the type it was declared with, and where
    "ALTER TABLE parameter ADD COLUMN usual TEXT",  # what code gives it where nobody says otherwise, as `text`
    "ALTER TABLE task ADD COLUMN nested INTEGER NOT NULL DEFAULT 0",  # 1: a run that is a step of its parent, no clone under it
    "ALTER TABLE task ADD COLUMN tolerates_abort INTEGER NOT NULL DEFAULT 0",  # as tolerated, when it was stopped
    "ALTER TABLE task ADD COLUMN passes TEXT NOT NULL DEFAULT ''",  # bad endings after which its children run: 'failed stopped'
    "ALTER TABLE task ADD COLUMN lent INTEGER NOT NULL DEFAULT 0",  # 1: it waits for a step of its own: its slot is free
)


def _second(connection: sqlite3.Connection) -> None:
    for statement in (*_ENVIRONMENTS, *_REPORTED, *_REFERENCES, *_counted("plot"), *_counted("model"), *_PIPELINES):
        connection.execute(statement)


# Newest last; the position is the schema version. A released migration is never edited: a new one follows it.
MIGRATIONS: tuple[tuple[str, Callable[[sqlite3.Connection], None]], ...] = (
    ("0001_first", _first),
    ("0002_second", _second),
)


def version_of(connection: sqlite3.Connection) -> tuple[int, int]:
    """(application id, schema version) of an open database; both 0 in an empty one."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return int(application), int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to `VERSION`.

    Must run inside a write transaction of `connection`: then two migrators at once do the work once, and a kill at any
    statement leaves the old version (DDL and ``user_version`` roll back together, SQLite's documentation of PRAGMA
    user_version). sqlite-utils' own `apply` outside a transaction lost this race in three of four tries.
    """
    with migrating.sqlite_utils() as (library, module):
        migrations = module.Migrations("minipipe")
        for name, step in MIGRATIONS:
            migrations(name=name)(lambda database, step=step: step(database.conn))
        migrations.apply(library.Database(connection))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
