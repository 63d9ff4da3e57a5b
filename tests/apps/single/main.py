from fastapi import FastAPI

app = FastAPI()
things: list[dict[str, str]] = []


@app.get("/")
def root() -> dict[str, str]:
    return {"app": "single"}


@app.get("/things")
def list_things() -> list[dict[str, str]]:
    return things


@app.post("/things", status_code=201)
def make_thing(thing: dict[str, str]) -> dict[str, str]:
    things.append(thing)
    return thing
