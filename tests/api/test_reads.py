"""`Read` on a real Postgres, in the event loop of the app."""

import asyncio
import enum
from typing import Any, NoReturn

import pytest
from app.reads import AT_ONCE, Read
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Select,
    String,
    Table,
    TypeDecorator,
    Uuid,
    bindparam,
    cast,
    event,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.exc import DataError, DBAPIError, InvalidRequestError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.testclient import TestClient

from app.database import Borrowed, is_away, read_engine, reading
from app.notes import notes
from tests.api.conftest import Call
from tests.conftest import Database


class Color(enum.Enum):
    red = "RED"


class Shouted(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: object) -> str | None:
        return value and value.upper()


class Whispered(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return value and value.lower()


renamed = Table("notes", MetaData(), Column("id", BigInteger, key="number"), Column("text", Shouted))
other = notes.alias("other")
NUMBER = bindparam("number", type_=Integer)
# Statement, and what its parameters are.
STATEMENTS: dict[str, tuple[Select[*tuple[Any, ...]], dict[str, Any]]] = {
    "a table": (select(notes).order_by(notes.c.id), {}),
    "a parameter": (select(notes).where(notes.c.id <= NUMBER), {"number": 2}),
    "a value of its own": (select(notes.c.id).where(notes.c.id <= 2).limit(1), {}),
    "no row": (select(notes).where(notes.c.id == NUMBER), {"number": 0}),
    "a label": (select(notes.c.id.label("number"), func.now() > notes.c.created_at), {}),
    "a key, a type of the user's": (select(renamed), {}),
    "a name twice": (select(notes.c.id, other.c.id, other).join_from(notes, other, true()), {}),
    "a function": (select(func.count(), func.max(notes.c.id)).select_from(notes), {}),
    "a percent sign": (select(literal("100 %").label("%"), notes.c.id % 2), {}),
    "numbers": (select(cast("1.50", Numeric(10, 2)), cast("1.5", Numeric(asdecimal=False)), literal(1.5)), {}),
    "an enum": (select(cast("red", Enum(Color, native_enum=False))), {}),
    "structures": (select(cast(literal('{"a": [1]}'), JSON), array([1, 2]), cast("1 day", Interval)), {}),
    "bytes": (
        select(cast(literal("ab"), LargeBinary), cast(literal("6f1ed002ab594f0b8b0e2f0f5f3a7f10"), Uuid)),
        {},
    ),
    "a list": (select(notes.c.id).where(notes.c.id.in_(bindparam("ids", expanding=True))), {"ids": [1, 2]}),
    "options": (select(notes.c.id).execution_options(schema_translate_map={None: "public"}), {}),
    "a value that its type changes": (select(bindparam("word", type_=Whispered)), {"word": "LOUD"}),
}
SQLALCHEMYS = ("a list", "options", "a value that its type changes", "an enum")


@pytest.fixture(autouse=True)
def two_notes(client: TestClient) -> None:
    for text in ("one", "two"):
        assert client.post("/notes", json={"text": text}).status_code == 201


async def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("by SQLAlchemy")


@pytest.mark.parametrize("name", STATEMENTS)
def test_rows_are_those_of_sqlalchemy(call: Call, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, values, types and ways to a column, the first time and later; later without SQLAlchemy's execute."""
    statement, parameters = STATEMENTS[name]

    async def compare() -> None:
        async with reading() as connection:
            result = await connection.execute(statement, parameters)
            keys, rows = tuple(result.keys()), result.all()
        read = Read(statement)
        for time in range(3):
            if time == 1 and name not in SQLALCHEMYS:
                monkeypatch.setattr(AsyncConnection, "execute", refuse)
            again = await read.all(**parameters)
            assert again == rows
            assert {tuple(row._fields) for row in again} <= {keys}
            assert [list(map(type, row)) for row in again] == [list(map(type, row)) for row in rows]
            for row, expected in zip(again, rows, strict=True):
                assert type(row) is type(expected)
                for column in statement.selected_columns:
                    assert row._mapping[column] == expected._mapping[column]

    call(compare)


def test_parameter_that_is_missing(call: Call) -> None:
    """It is an error that names it, not a NULL."""

    async def forget() -> None:
        read = Read(select(notes).where(notes.c.id == NUMBER))
        await read.all(number=1)
        with pytest.raises(InvalidRequestError, match="number"):
            await read.all()

    call(forget)


def test_error_is_that_of_sqlalchemy(call: Call) -> None:
    """The class that SQLAlchemy has for it, with the statement; the connection goes back, as good as before."""

    async def divide() -> None:
        read = Read(select(literal(1) / NUMBER))
        await read.all(number=1)
        with pytest.raises(DataError, match=r"division by zero(.|\n)*SELECT") as caught:
            await read.all(number=0)
        assert not caught.value.connection_invalidated
        assert not read_engine().pool.checkedout()  # type: ignore[attr-defined]  # a QueuePool
        assert await read.all(number=1) == [(1,)]

    call(divide)


async def until_sleeping(number: int, seconds: float = 0) -> None:
    """Wait until as many statements have slept in Postgres for longer than this."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%%' AND state = 'active'"
    sql += f" AND query_start < clock_timestamp() - {seconds} * interval '1 s'"
    async with asyncio.timeout(10), reading() as connection:
        while (await connection.exec_driver_sql(sql)).scalar_one() != number:  # noqa: ASYNC110 - Postgres tells nobody
            await asyncio.sleep(0.05)


def end_backends(database: Database) -> None:
    if not database.server:
        pytest.skip("needs a server of our own")
    database.server.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'")


@pytest.mark.usefixtures("new_pools")
@pytest.mark.parametrize("connections", [1, 3])
def test_connections_that_the_server_closed(call: Call, database: Database, connections: int) -> None:
    """They are replaced without an error."""
    read = Read(select(func.pg_sleep(NUMBER)))

    async def several() -> None:
        await read.all(number=0)
        await asyncio.gather(*(read.all(number=0.2) for _ in range(connections)))

    async def again() -> None:
        for _ in range(10):
            await read.all(number=0)

    call(several)
    end_backends(database)
    call(again)


@pytest.mark.usefixtures("new_pools")
def test_statement_that_was_running_is_not_sent_again(call: Call, database: Database) -> None:
    """What an operator ends stays ended: the client's answer is that of a database that is away."""
    read = Read(select(func.pg_sleep(NUMBER)))

    async def running() -> None:
        await read.all(number=0)
        task = asyncio.create_task(read.all(number=30))
        await until_sleeping(1, 2 * AT_ONCE)
        await asyncio.to_thread(end_backends, database)
        with pytest.raises(DBAPIError) as caught:
            await asyncio.wait_for(task, 10)
        assert is_away(caught.value)

    call(running)


@pytest.mark.usefixtures("new_pools")
@pytest.mark.parametrize("listened", ["checkin", "reset"])
def test_listeners_to_returned_connections(call: Call, listened: str) -> None:
    """They may wait, as SQLAlchemy lets them; no connection is lost, nor made anew."""

    async def listen() -> None:
        def clean(connection: Any, *_: object) -> None:
            connection.cursor().execute("RESET ALL")

        event.listen(read_engine().sync_engine, listened, clean)
        read = Read(select(func.pg_backend_pid()))
        assert len({(await read.all())[0][0] for _ in range(10)}) == 1
        assert not read_engine().pool.checkedout()  # type: ignore[attr-defined]  # a QueuePool

    call(listen)


def test_columns_that_are_known_only_when_they_come(call: Call) -> None:
    """`*` has other columns after a migration: SQLAlchemy looks at them each time, and so does this."""

    async def look() -> None:
        read: Read[Any] = Read(select(literal_column("*")).select_from(notes))
        rows = await read.all()
        assert rows[0]._fields == ("id", "text", "created_at")
        assert read.make_rows is None

    call(look)


@pytest.mark.parametrize("times", [1, 2])
def test_request_that_is_cancelled(call: Call, times: int) -> None:
    """What it was reading ends in Postgres too, and its pool loses no connection; also when it is cancelled again."""
    read = Read(select(func.pg_sleep(NUMBER)))

    async def cancel() -> None:
        await read.all(number=0)
        task = asyncio.create_task(read.all(number=60))
        await until_sleeping(1)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_sleeping(0)
        assert not read_engine().pool.checkedout()  # type: ignore[attr-defined]  # a QueuePool
        await asyncio.gather(*(read.all(number=0) for _ in range(10)))

    call(cancel)


def test_pool_that_is_lent_out(call: Call) -> None:
    """A read waits for POOL_TIMEOUT, and then raises what becomes a 503."""

    async def exhaust() -> None:
        read = Read(select(notes))
        await read.all()
        lent = [Borrowed(read_engine()) for _ in range(read_engine().pool.size())]  # type: ignore[attr-defined]
        for one in lent:
            await one.__aenter__()
        try:
            with pytest.raises(TimeoutError):
                await read.all()
        finally:
            for one in lent:
                await one.__aexit__(None, None, None)
        await read.all()

    call(exhaust)


async def read_thrice() -> None:
    read = Read(select(notes))
    for _ in range(3):
        await read.all()


@pytest.mark.usefixtures("new_pools")
@pytest.mark.parametrize("listened", ["before_cursor_execute", "do_execute"])
def test_listeners_see_every_statement(call: Call, listened: str) -> None:
    """Tracing, for one, listens to the engine or to its dialect: nothing passes it by."""

    async def listen() -> None:
        seen: list[str] = []
        event.listen(read_engine().sync_engine, listened, lambda *arguments: seen.append(str(arguments)))
        await read_thrice()
        assert len([one for one in seen if "FROM notes" in one]) == 3

    call(listen)


@pytest.mark.usefixtures("new_pools")
def test_log_has_every_statement(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    """With SQLAlchemy's logger at INFO."""
    with caplog.at_level("INFO", "sqlalchemy.engine"):
        call(read_thrice)
    assert len([record for record in caplog.records if record.message.startswith("SELECT notes")]) == 3
