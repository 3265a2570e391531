// The description of the API, by Swagger UI from this server alone.
"use strict";

// This Swagger UI draws OpenAPI 3.1, which the broker speaks, and refuses its number.
fetch("/openapi.json")
  .then((answer) => answer.json())
  .then((described) => SwaggerUIBundle({
    spec: { ...described, openapi: "3.0.3" },
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null,
  }));
