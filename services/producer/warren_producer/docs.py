"""The page of the API at `/docs`: Swagger UI from its own package's files, nothing from the internet."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]  # it has no types

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI sets styles inline; scripts come from this server only."""

_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Warren: the API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  validatorUrl: null,
});
"""


def add_docs(app: FastAPI) -> None:
    """Serve the page, its files, and a redirect from `/`."""
    folder = Path(str(swagger_ui_path))

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    def serve(name: str, media_type: str) -> None:
        @app.get(f"/docs/{name}", include_in_schema=False)
        async def file() -> FileResponse:
            return FileResponse(folder / name, media_type=media_type, headers={"Cache-Control": "max-age=3600"})

    for name, media_type in _FILES.items():
        serve(name, media_type)


def to_openapi_3_0(schema: Any) -> Any:
    """Write `T or null` as OpenAPI 3.0 does, which is the newest version that the packaged Swagger UI reads.

    FastAPI describes it as JSON Schema 2020 does, `anyOf` with a null type; 3.0 has the word `nullable`.
    """
    if isinstance(schema, list):
        return [to_openapi_3_0(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: to_openapi_3_0(value) for key, value in schema.items()}
    choices = changed.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        rest = [choice for choice in choices if choice != {"type": "null"}]
        if len(rest) == 1:
            del changed["anyOf"]
            changed = {**rest[0], **changed, "nullable": True}
    return changed
