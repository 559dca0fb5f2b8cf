from tests.distributed.pool import pool  # noqa: F401
