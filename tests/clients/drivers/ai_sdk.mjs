// Vercel's AI SDK: the providers for OpenAI (Responses or chat), what is compatible with it, and Anthropic.
import { drive, ENDPOINT, KEY, load, look, LOOK, MODEL, PROMPT, URL } from "./driving.mjs";

const { generateText, jsonSchema, stepCountIs, streamText, tool } = await load("ai");
const settings = { baseURL: `${URL}/v1`, apiKey: KEY };
const makers = {
  async responses() {
    return (await load("@ai-sdk/openai")).createOpenAI(settings)(MODEL);
  },
  async chat() {
    return (await load("@ai-sdk/openai")).createOpenAI(settings).chat(MODEL);
  },
  async compatible() {
    return (await load("@ai-sdk/openai-compatible")).createOpenAICompatible({ name: "weir", ...settings })(MODEL);
  },
  async messages() {
    return (await load("@ai-sdk/anthropic")).createAnthropic(settings)(MODEL);
  },
};
const model = await makers[ENDPOINT]();
const tools = { look: tool({ inputSchema: jsonSchema(LOOK), execute: async (found) => look(found) }) };

await drive({
  plain: async () => (await generateText({ model, prompt: PROMPT })).text,
  async *streamed(abortSignal) {
    const told = [];
    const { textStream } = streamText({
      model,
      prompt: PROMPT,
      abortSignal,
      onError: ({ error }) => told.push(error),
    });
    yield* textStream;
    if (told.length) throw told[0];
  },
  tool: async () => (await generateText({ model, prompt: PROMPT, tools, stopWhen: stepCountIs(3) })).text,
});
