from pydantic import PostgresDsn
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    database_url: PostgresDsn
    greeting: str
    start_seconds: float = 20


settings = Settings()
