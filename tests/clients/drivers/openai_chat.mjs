// OpenAI's SDK, chat completions.
import { drive, KEY, load, look, LOOK, MODEL, QUESTION, URL } from "./driving.mjs";

const { OpenAI } = await load("openai");
const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY });
const tools = [{ type: "function", function: { name: "look", parameters: LOOK } }];

async function ask(messages, more = {}) {
  const answer = await client.chat.completions.create({ model: MODEL, messages, ...more });
  return answer.choices[0].message;
}

await drive({
  plain: async () => (await ask(QUESTION)).content,
  async *streamed(signal) {
    const stream = await client.chat.completions.create(
      { model: MODEL, messages: QUESTION, stream: true },
      { signal },
    );
    for await (const chunk of stream) yield chunk.choices[0]?.delta.content ?? "";
  },
  async tool() {
    const first = await ask(QUESTION, { tools });
    const [call] = first.tool_calls;
    const content = look(JSON.parse(call.function.arguments));
    const messages = [...QUESTION, first, { role: "tool", tool_call_id: call.id, content }];
    return (await ask(messages, { tools })).content;
  },
});
