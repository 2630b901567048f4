/**
 * `GET /v1/models` and `GET /v1/models/{model}`
 * @module
 */
import { z } from "@hono/zod-openapi";
import { servedName, type ServerContext } from "./context.ts";
import { describe, type Endpoint } from "./endpoint.ts";

const model = z.looseObject({
  id: z.string(),
  object: z.literal("model"),
  created: z.int(),
  owned_by: z.string(),
  max_model_len: z.int(),
});

/** `GET /v1/models` */
export const models: Endpoint = {
  route: describe({
    at: "GET /v1/models",
    summary: "The model, by each of its names",
    returns: {
      description: "A list.",
      schema: z.object({ object: z.literal("list"), data: z.array(model) }),
    },
  }),
  answer(_, context) {
    return Response.json({
      object: "list",
      data: context.names.map((name) => describeModel(name, context)),
    });
  },
};

/** `GET /v1/models/{model}` */
export const modelByName: Endpoint = {
  route: describe({
    at: "GET /v1/models/{model}",
    summary: "The model of a name",
    returns: { description: "The model.", schema: model },
    refusals: [404],
  }),
  answer({ params }, context) {
    return Response.json(describeModel(servedName(context, params.model), context));
  },
};

function describeModel(name: string, { names, created, llm }: ServerContext) {
  return {
    id: name,
    object: "model",
    created,
    owned_by: "hybridseek",
    root: names[0]!,
    max_model_len: llm.contextLength,
  };
}
