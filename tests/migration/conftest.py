from postgres_fixture import (  # noqa: F401 - fixtures
    another_postgres_url,
    postgres_programs,
    postgres_server,
    postgres_template,
    postgres_url,
    reachable_tmp,
)
