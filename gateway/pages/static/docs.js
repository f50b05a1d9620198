// Starts Swagger UI with the documents that the page names. Nothing leaves this origin.
const element = document.getElementById("swagger-ui");
window.ui = SwaggerUIBundle({
  urls: JSON.parse(element.dataset.urls),
  domNode: element,
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  layout: "StandaloneLayout",
});
