from served_models import real_similarity, real_triton  # noqa: F401 - fixtures
