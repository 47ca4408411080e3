"""
Roles of the embedded server: the gateway's, which is no superuser, and the administrator's.

The role that creates a data directory is its superuser for ever (OID 10): in earlier versions that
was the gateway's. Such a directory is converted once: that role is renamed, a new role gets its
name, and becomes the owner of everything the users have created. Each step may be repeated, so that
a conversion that was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.model.errors import EmbeddedError

USER: Final = "gateway"
"""The role that the gateway serves as, and its database."""

ADMINISTRATOR: Final = "postgres"
"""The superuser of a directory that is made anew."""

MAKE: Final = (
    f"CREATE ROLE {USER} LOGIN\n"
    f"CREATE DATABASE {USER} OWNER {USER}\n"
    # README's psql -d postgres; as PostgreSQL makes it nobody but a superuser could use it.
    f"ALTER DATABASE postgres OWNER TO {USER}\n"
)
"""Statements that prepare a new data directory, one a line."""

Ask = Callable[[str, str, str], tuple[str, str]]
"""
Role, database and a script for psql(1) -> what it printed, and its errors.

Raises L{EmbeddedError} where it cannot connect.
"""

_INTERIM: Final = "gateway_handover"
"""A superuser for the moment in which the other one is renamed: nobody can rename itself."""

_SUPERUSER: Final = "SELECT rolname FROM pg_roles WHERE oid = 10;\n"

_RENAME: Final = f"""
\\set ON_ERROR_STOP on
BEGIN;
DO $$
DECLARE
    new text;
    found record;
    entry text;
    setting text;
BEGIN
    SELECT name INTO new FROM unnest(ARRAY['{ADMINISTRATOR}', 'gateway_admin', 'gateway_superuser'])
        WITH ORDINALITY AS names (name, place)
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) ORDER BY place LIMIT 1;
    EXECUTE format('ALTER ROLE {USER} RENAME TO %I', new);
    CREATE ROLE {USER} LOGIN;
    -- A superuser may use what is anybody's.
    FOR found IN SELECT rolname FROM pg_roles
        WHERE NOT rolsuper AND rolname !~ '^pg_' AND rolname <> '{USER}'
    LOOP
        EXECUTE format('GRANT %I TO {USER}', found.rolname);
    END LOOP;
    FOR found IN SELECT spcname FROM pg_tablespace WHERE spcname !~ '^pg_' LOOP
        EXECUTE format('GRANT CREATE ON TABLESPACE %I TO {USER}', found.spcname);
    END LOOP;
    FOR found IN SELECT d.datname, s.setconfig FROM pg_db_role_setting AS s
        LEFT JOIN pg_database AS d ON d.oid = s.setdatabase WHERE s.setrole = 10
    LOOP
        FOREACH entry IN ARRAY found.setconfig LOOP
            setting := split_part(entry, '=', 1);
            PERFORM set_config(setting, substr(entry, strpos(entry, '=') + 1), true);
            EXECUTE format(
                'ALTER ROLE {USER} %s SET %s FROM CURRENT',
                coalesce('IN DATABASE ' || quote_ident(found.datname), ''),
                setting
            );
        END LOOP;
    END LOOP;
END $$;
COMMIT;
"""

_DATABASES: Final = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate;\n"

_OWNED: Final = f"""
SET lock_timeout = '5s';
SELECT format('ALTER DATABASE %I OWNER TO {USER}', datname) FROM pg_database
    WHERE datname = current_database() AND datdba = 10
\\gexec
WITH owned AS (
    SELECT 'pg_class'::regclass AS class, oid FROM pg_class AS c WHERE relowner = 10
        AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND relpersistence <> 't'
        -- Those of columns go with their tables.
        AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass
            AND d.objid = c.oid AND c.relkind = 'S' AND d.deptype IN ('a', 'i')
            AND d.refclassid = 'pg_class'::regclass)
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type AS t WHERE typowner = 10
        AND typtype IN ('b', 'd', 'e', 'r')
        AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid)
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE proowner = 10
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace
        WHERE nspowner = 10 AND nspname !~ '^pg_(toast_)?temp_'
    UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprowner = 10
    UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass WHERE opcowner = 10
    UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily WHERE opfowner = 10
    UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation WHERE collowner = 10
    UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion WHERE conowner = 10
    UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config WHERE cfgowner = 10
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict WHERE dictowner = 10
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxowner = 10
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server WHERE srvowner = 10
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication
        WHERE pubowner = 10 AND NOT puballtables
    UNION ALL SELECT 'pg_largeobject'::regclass, oid FROM pg_largeobject_metadata
        WHERE lomowner = 10
)
SELECT format(
    'ALTER %s %s OWNER TO {USER}',
    CASE o.type WHEN 'composite type' THEN 'type' WHEN 'statistics object' THEN 'statistics'
        ELSE o.type END,
    o.identity
) FROM owned, pg_identify_object(owned.class, owned.oid, 0) AS o
    -- Smaller ones are PostgreSQL's own.
    WHERE owned.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend AS d
        WHERE d.classid = owned.class AND d.objid = owned.oid AND d.deptype = 'e')
    ORDER BY owned.class <> 'pg_namespace'::regclass, owned.oid
\\gexec
"""


def hand_over(ask: Ask) -> tuple[str, list[str]]:
    """
    Replace the gateway's role by one that is no superuser, and make that the owner of what the
    superuser owns.

    @return: the superuser's name, and one line for each object that could not be changed; a later
        call may succeed.
    @raise EmbeddedError: the roles could not be changed; nothing is lost.
    """
    superuser = _first(ask(USER, USER, _SUPERUSER))
    if superuser == USER:
        interim = (
            f"SELECT 'CREATE ROLE {_INTERIM} SUPERUSER LOGIN' WHERE NOT EXISTS"
            f" (SELECT FROM pg_roles WHERE rolname = '{_INTERIM}')\n\\gexec\n"
        )
        for role, script in ((USER, interim), (_INTERIM, _RENAME)):
            _, errors = ask(role, USER, script)
            if errors:
                raise EmbeddedError(f"the role {USER} could not be taken its rights: {errors}")
        superuser = _first(ask(USER, USER, _SUPERUSER))
    left: list[str] = []
    printed, _ = ask(superuser, USER, _DATABASES)
    for name in printed.splitlines():
        _, errors = ask(superuser, name, _OWNED)
        left += [f"{name}: {line}" for line in errors.splitlines() if "ERROR" in line]
    ask(superuser, USER, f"DROP ROLE IF EXISTS {_INTERIM};\n")
    return superuser, left


def _first(answer: tuple[str, str]) -> str:
    printed, errors = answer
    lines = printed.splitlines()
    if not lines:
        raise EmbeddedError(f"the embedded PostgreSQL does not say who is its superuser: {errors}")
    return lines[0]
