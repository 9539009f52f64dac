// OpenAI's SDK, Responses.
import { drive, KEY, load, look, LOOK, MODEL, PROMPT, URL } from "./driving.mjs";

const { OpenAI } = await load("openai");
const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY });
const tools = [{ type: "function", name: "look", parameters: LOOK, strict: false }];

await drive({
  plain: async () => (await client.responses.create({ model: MODEL, input: PROMPT })).output_text,
  async *streamed(signal) {
    const stream = await client.responses.create({ model: MODEL, input: PROMPT, stream: true }, { signal });
    for await (const event of stream) if (event.type === "response.output_text.delta") yield event.delta;
  },
  async tool() {
    const first = await client.responses.create({ model: MODEL, input: PROMPT, tools });
    const call = first.output.find((item) => item.type === "function_call");
    const output = look(JSON.parse(call.arguments));
    const input = [{ type: "function_call_output", call_id: call.call_id, output }];
    const asked = { model: MODEL, previous_response_id: first.id, input, tools };
    return (await client.responses.create(asked)).output_text;
  },
});
