// Anthropic's SDK.
import { drive, KEY, load, look, LOOK, MODEL, QUESTION, URL } from "./driving.mjs";

const { Anthropic } = await load("@anthropic-ai/sdk");
const client = new Anthropic({ baseURL: URL, apiKey: KEY });
const asked = { model: MODEL, max_tokens: 500 };
const tools = [{ name: "look", input_schema: LOOK }];

await drive({
  plain: async () => (await client.messages.create({ ...asked, messages: QUESTION })).content[0].text,
  async *streamed(signal) {
    for await (const event of client.messages.stream({ ...asked, messages: QUESTION }, { signal }))
      if (event.delta?.type === "text_delta") yield event.delta.text;
  },
  async tool() {
    const first = await client.messages.create({ ...asked, messages: QUESTION, tools });
    const use = first.content.find((block) => block.type === "tool_use");
    const result = { type: "tool_result", tool_use_id: use.id, content: look(use.input) };
    const messages = [
      ...QUESTION,
      { role: "assistant", content: first.content },
      { role: "user", content: [result] },
    ];
    return (await client.messages.create({ ...asked, messages, tools })).content[0].text;
  },
});
