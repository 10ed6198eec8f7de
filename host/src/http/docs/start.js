// Shows the API document of the server that this page is from. Nothing is asked of any other.
"use strict";
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // Would be asked over the network.
  validatorUrl: null,
  onComplete() {
    document.title = window.ui.specSelectors.info().get("title") || "API";
  },
});
