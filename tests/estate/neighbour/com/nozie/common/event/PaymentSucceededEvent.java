package com.nozie.common.event;

import java.math.BigDecimal;

/** What a payment-service on the JVM publishes; its name travels in the header __TypeId__. */
public record PaymentSucceededEvent(
        Long transactionId, Long customerId, String movieId, BigDecimal amount, String currency) {}
