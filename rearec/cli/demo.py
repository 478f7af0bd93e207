def register(app: object) -> None:
    pass
