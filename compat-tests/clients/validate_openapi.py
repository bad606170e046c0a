"""Checks an OpenAPI document, named by its file, with a public validator."""

import json
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

with open(sys.argv[1], encoding="utf-8") as file:
    document = json.load(file)
problems = [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()]
operations = sum(len(verbs.keys() & {"get", "post", "put", "delete"}) for verbs in document["paths"].values())
print(f"{operations} operations, {len(problems)} problems")
print("\n".join(problems[:20]))
sys.exit(bool(problems))
