/**
 * `POST /v1/embeddings`, which this server has not.
 * @module
 */
import { ApiError } from "./api_error.ts";
import { describe, type Endpoint } from "./endpoint.ts";

/** `POST /v1/embeddings` */
export const embeddings: Endpoint = {
  route: describe({
    at: "POST /v1/embeddings",
    summary: "Not supported: the models of this family generate text",
    returns: { description: "Never." },
    refusals: [404],
  }),
  answer() {
    throw new ApiError(
      404,
      "Cannot embed: the models of this family generate text, this server makes no embeddings.",
      { type: "not_found_error", code: "unsupported" },
    );
  },
};
