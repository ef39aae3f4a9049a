import * as ort from "onnxruntime-web/wasm";
import { answerMessages } from "./answer";

answerMessages(ort, "wasm");
