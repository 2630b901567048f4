/**
 * Schemas whose cost is bounded: zod would describe every wrong item of a list, these end at the first.
 * @module
 */
import { z } from "@hono/zod-openapi";

/**
 * A list.
 *
 * @param item What each item is; what it leaves out or changes is not seen.
 * @param least Items that there must be.
 * @param most Items that there may be.
 * @returns The schema.
 */
export function list(item: z.ZodType, least: number, most: number): z.ZodType {
  const { $schema: _, ...items } = z.toJSONSchema(item, { io: "input" });
  return z.any().superRefine((value, context) => {
    const refuse = (message: string, path: PropertyKey[] = []) =>
      context.addIssue({ code: "custom", message, path });
    if (!Array.isArray(value)) return refuse("it must be a list");
    if (value.length < least || value.length > most) {
      return refuse(`it has ${value.length} items, it must have ${least} to ${most}`);
    }
    for (const [index, entry] of value.entries()) {
      const result = item.safeParse(entry);
      if (result.success) continue;
      const { message, path } = result.error.issues[0]!;
      return refuse(message, [index, ...path]);
    }
  }).openapi({
    type: "array",
    items: items as { type: "string" },
    minItems: least,
    maxItems: most,
  });
}

/**
 * An object of numbers by token id.
 *
 * @param most How far each may be from 0.
 * @returns The schema.
 */
export function numbersByToken(most: number): z.ZodType {
  const isNumber = (value: unknown) => typeof value === "number" && Math.abs(value) <= most;
  const number = { type: "number" as const, minimum: -most, maximum: most };
  return z.any().refine(
    (value) =>
      typeof value === "object" && value !== null && !Array.isArray(value) &&
      Object.entries(value).every(([id, number]) => /^\d+$/.test(id) && isNumber(number)),
    `it must be an object with a number from -${most} to ${most} for each token id`,
  ).openapi({ type: "object", additionalProperties: number });
}
