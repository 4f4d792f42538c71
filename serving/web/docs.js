// The API's description in Swagger UI, with the token that was entered on the page of photographs.

import { authorization, getJson } from "./api.js";
import { explain } from "./messages.js";

try {
  SwaggerUIBundle({
    spec: await getJson("openapi.json"),
    dom_id: "#api",
    deepLinking: true,
    requestInterceptor: (request) => {
      Object.assign(request.headers, authorization());
      return request;
    },
  });
} catch (problem) {
  const remedy = problem.code === "unauthorized" ? " Enter it with the photographs, in this tab, and come back." : "";
  const text = problem.code === "unauthorized" ? "This service asks for a token." : explain(problem).text;
  document.getElementById("problem").textContent = text + remedy;
}
